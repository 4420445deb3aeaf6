package event

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// SigningKey is an event key of a server, able to sign.
type SigningKey struct {
	Server  Server
	ID      KeyID
	Private ed25519.PrivateKey
}

// check refuses keys with which nothing can be signed.
func (k SigningKey) check() error {
	if len(k.Private) != ed25519.PrivateKeySize || k.Server == "" || !isEd25519(k.ID) ||
		!utf8.ValidString(string(k.Server)) || !utf8.ValidString(string(k.ID)) {
		return fmt.Errorf("%w: signing key %q of server %q is not usable", ErrInvalid, k.ID, k.Server)
	}
	return nil
}

func isEd25519(kid KeyID) bool {
	return len(kid) > len("ed25519:") && strings.HasPrefix(string(kid), "ed25519:")
}

// sign returns the signature of payload in unpadded base64.
func (k SigningKey) sign(payload []byte) string {
	return base64.RawStdEncoding.EncodeToString(ed25519.Sign(k.Private, payload))
}

// SignJSON signs any JSON object as the specification says (Appendices, Signing
// JSON) and returns it, canonical, with the signature added; unsigned stays.
// Errors wrap ErrInvalid.
func SignJSON(object json.RawMessage, key SigningKey) (json.RawMessage, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	raw, err := Canonical(object)
	if err != nil {
		return nil, err
	}
	if raw[0] != '{' {
		return nil, fmt.Errorf("%w: only JSON objects can be signed", ErrInvalid)
	}
	old := lookup(raw, "signatures")
	if old != nil && !isSignatures(old) {
		return nil, fmt.Errorf("%w: signatures are not of the form {server: {key: text}}", ErrInvalid)
	}
	signature := key.sign(appendUnsignedJSON(nil, raw))
	return appendSigned(make([]byte, 0, len(raw)+256), raw, key.Server, key.ID, signature), nil
}

// VerifyJSON checks a signature made by SignJSON. Errors wrap ErrSignature, and
// ErrInvalid if object is not a JSON object as Canonical accepts it.
func VerifyJSON(object json.RawMessage, server Server, kid KeyID, key []byte) error {
	raw, err := Canonical(object)
	if err == nil && raw[0] != '{' {
		err = fmt.Errorf("%w: not a JSON object", ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return verify(lookup(raw, "signatures"), server, kid, key, func() []byte {
		return appendUnsignedJSON(nil, raw)
	})
}

// verify checks the signature of server by kid among signatures over payload.
func verify(signatures []byte, server Server, kid KeyID, key ed25519.PublicKey, payload func() []byte) error {
	text, ok := appendUnquoted(nil, find(find(signatures, string(server)), string(kid)))
	switch {
	case !ok:
		return fmt.Errorf("%w: none by %s of %s", ErrSignature, kid, server)
	case !isEd25519(kid):
		return fmt.Errorf("%w: algorithm of %s is not known", ErrSignature, kid)
	case len(key) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: the key has %d bytes, not %d", ErrSignature, len(key), ed25519.PublicKeySize)
	}
	signature, err := decodeBase64(text)
	if err != nil || len(signature) != ed25519.SignatureSize {
		return fmt.Errorf("%w: %s of %s is no base64 of %d bytes", ErrSignature, kid, server, ed25519.SignatureSize)
	}
	if !ed25519.Verify(key, payload(), signature) {
		return fmt.Errorf("%w: %s of %s does not match", ErrSignature, kid, server)
	}
	return nil
}

// decodeBase64 reads base64 with or without padding (Appendices, Unpadded
// Base64: decoders should accept both).
func decodeBase64(text []byte) ([]byte, error) {
	return base64.RawStdEncoding.AppendDecode(nil, bytes.TrimRight(text, "="))
}

// find is lookup for any key.
func find(v []byte, key string) []byte {
	quoted := appendText(make([]byte, 0, 64), key)
	return lookup(v, string(quoted[1:len(quoted)-1]))
}

// isSignatures reports whether v has the form {server: {key: text}}.
func isSignatures(v []byte) bool {
	r := read(v, '{')
	for {
		_, keys, ok := r.member()
		if !ok {
			return !r.bad
		}
		if !isTexts(keys) {
			return false
		}
	}
}

// isTexts reports whether v is an object whose values are strings.
func isTexts(v []byte) bool {
	r := read(v, '{')
	for {
		_, text, ok := r.member()
		if !ok {
			return !r.bad
		}
		if text[0] != '"' {
			return false
		}
	}
}

// appendUnsignedJSON appends the canonical object raw without its signatures
// and unsigned, which is what a signature covers.
func appendUnsignedJSON(dst, raw []byte) []byte {
	return appendWithout(dst, raw, func(key []byte) bool {
		return string(key) == "signatures" || string(key) == "unsigned"
	})
}

// appendWithout appends the canonical object raw without the members that drop
// names.
func appendWithout(dst, raw []byte, drop func(key []byte) bool) []byte {
	dst = append(dst, '{')
	first := true
	for r := read(raw, '{'); ; {
		key, value, ok := r.member()
		if !ok {
			return append(dst, '}')
		}
		if drop(key) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, r.b[r.start:r.start+len(key)+3]...)
		dst = append(dst, value...)
	}
}

// appendSigned appends the canonical object raw with one more signature; an
// older one of the same key is replaced.
func appendSigned(dst, raw []byte, server Server, kid KeyID, signature string) []byte {
	quoted := appendText(nil, signature)
	keys := appendWith(nil, find(lookup(raw, "signatures"), string(server)), string(kid), quoted)
	signatures := appendWith(nil, lookup(raw, "signatures"), string(server), keys)
	return appendWith(dst, raw, "signatures", signatures)
}

// appendWith appends the canonical object raw, which may be nil for an empty
// one, with the member key set to value.
func appendWith(dst, raw []byte, key string, value []byte) []byte {
	quoted := appendText(nil, key)
	dst = append(dst, '{')
	first, done := true, false
	put := func(key, value []byte) {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(dst, key...), ':'), value...)
	}
	for r := read(raw, '{'); ; {
		k, v, ok := r.member()
		if !done && (!ok || compareKeys(k, quoted[1:len(quoted)-1]) >= 0) {
			put(quoted, value)
			done = true
		}
		if !ok {
			return append(dst, '}')
		}
		if old := r.b[r.start : r.start+len(k)+2]; !bytes.Equal(old, quoted) {
			put(old, v)
		}
	}
}
