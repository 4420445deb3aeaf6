package room

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node/event"
)

// maxProofs bounds how many different keys and how many different signatures of
// a third-party invite are tried against each other. Identity servers use two
// keys and one signature; an event that carries hundreds of each would cost
// every node of the room minutes.
const maxProofs = 16

// checkThirdParty is rule 5.4.1. invite is content.third_party_invite, target
// the membership of the invited user.
func checkThirdParty(c *claim, f *facts, invite []byte, target string) error {
	// Rule 5.4.1.1. The target is banned.
	if target == "ban" {
		return refuse("5.4.1.1", "%s is banned from the group", *c.StateKey)
	}
	// Rule 5.4.1.2. No signed property.
	signed := property(invite, "signed")
	if signed == nil {
		return refuse("5.4.1.2", "the third-party invite has no signed part")
	}
	// Rule 5.4.1.3. No mxid or token.
	mxid, hasUser := stringOf(property(signed, "mxid"))
	token, hasToken := stringOf(property(signed, "token"))
	if !hasUser || !hasToken {
		return refuse("5.4.1.3", "the third-party invite names no user or no token")
	}
	// Rule 5.4.1.4. It is for another user.
	if mxid != *c.StateKey {
		return refuse("5.4.1.4", "the third-party invite is for %s", mxid)
	}
	// Rule 5.4.1.5. There is no m.room.third_party_invite with this token.
	e := f.at(c, "m.room.third_party_invite", token)
	if e == nil {
		return refuse("5.4.1.5", "the group has no third-party invite with this token")
	}
	// Rule 5.4.1.6. Another user made it.
	if e.Sender != c.Sender {
		return refuse("5.4.1.6", "the third-party invite was made by %s", e.Sender)
	}
	// Rule 5.4.1.7. A signature matches one of its keys.
	keys, sigs := inviteKeys(e.Content), inviteSignatures(signed)
	if len(keys) > maxProofs || len(sigs) > maxProofs {
		return refuse("5.4.1.8", "the third-party invite has more than %d keys or signatures", maxProofs)
	}
	if message := signedBytes(signed); message != nil {
		for _, key := range keys {
			for _, sig := range sigs {
				if ed25519.Verify(ed25519.PublicKey(key), message, []byte(sig)) {
					return nil
				}
			}
		}
	}
	// Rule 5.4.1.8. None does.
	return refuse("5.4.1.8", "no signature of the third-party invite matches its keys")
}

// inviteKeys returns the different public keys of m.room.third_party_invite
// (rules 5.4.1.7.1 and 5.4.1.7.2).
func inviteKeys(content []byte) []string {
	var keys []string
	add := func(value []byte) {
		if s, ok := stringOf(value); ok {
			if key := decode64(s); len(key) == ed25519.PublicKeySize && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	add(property(content, "public_key"))
	scanArray(property(content, "public_keys"), func(v []byte) bool {
		add(property(v, "public_key"))
		return len(keys) <= maxProofs
	})
	return keys
}

// inviteSignatures returns the different signatures of the signed part.
func inviteSignatures(signed []byte) []string {
	var sigs []string
	scanObject(property(signed, "signatures"), func(_, byKey []byte) bool {
		scanObject(byKey, func(_, v []byte) bool {
			if s, ok := stringOf(v); ok {
				if sig := decode64(s); len(sig) == ed25519.SignatureSize && !slices.Contains(sigs, sig) {
					sigs = append(sigs, sig)
				}
			}
			return len(sigs) <= maxProofs
		})
		return len(sigs) <= maxProofs
	})
	return sigs
}

// signedBytes returns what the signatures cover (Appendices, Signing JSON): the
// canonical JSON without signatures and unsigned. nil if signed is no object.
func signedBytes(signed []byte) []byte {
	var object map[string]json.RawMessage
	if json.Unmarshal(signed, &object) != nil || object == nil {
		return nil
	}
	delete(object, "signatures")
	delete(object, "unsigned")
	raw, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	if raw, err = event.Canonical(raw); err != nil {
		return nil
	}
	return raw
}

// decode64 reads base64 of either alphabet, padded or not; empty if it is neither.
func decode64(s string) string {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	b, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return ""
	}
	return string(b)
}
