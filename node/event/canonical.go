package event

import "encoding/json"

// Canonical returns the canonical JSON of raw (Appendices, Canonical JSON):
// strict input, sorted keys, no insignificant space, integers within ±(2^53-1).
// Errors wrap ErrInvalid.
func Canonical(raw []byte) ([]byte, error) { panic("stub") }

// SignJSON signs any JSON object as the specification says (Appendices, Signing
// JSON) and returns it with the signature added.
func SignJSON(object json.RawMessage, key SigningKey) (json.RawMessage, error) { panic("stub") }

// VerifyJSON checks a signature made by SignJSON. Errors wrap ErrSignature.
func VerifyJSON(object json.RawMessage, server Server, kid KeyID, key []byte) error { panic("stub") }
