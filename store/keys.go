package store

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/tokenim/tokenim/node/event"
)

// The schema. A key is one prefix byte and fixed-width or length-prefixed
// parts: ids of events and rooms are the 32 bytes of their hash, positions and
// state ids 8 bytes big-endian, "str" is two bytes of length and the text, and
// "rest" is text up to the end of the key. Values are JSON where the table says
// so and otherwise fields of codec.go in the order given.
//
//	key                                 value                                            written by
//	V                                   schema version                                   open
//	T                                   position, users, local, remote, rooms, federated any change (Tx.totals)
//	Y                                   largest state id in use                          newLayer
//	e event                             node: status, flags, membership, position,       Apply, PutOutlier, PutRefused, redact
//	                                    depth, before, after, room, redacted-by, prevs
//	b event                             the event's canonical JSON                       Apply, PutOutlier, PutRefused, redact
//	g event                             ids of events in the graph that refer to this    Apply with Horizon
//	                                    one, which was not there when they came
//	p event                             redactions waiting for this event: id, power,    Apply, PutOutlier
//	                                    server of each
//	r room                              room: heads, leaves, state, last, counts         Apply, PutReceipt
//	t room position                     event, current state after it                    Apply
//	o position                          room, event: own events for the publisher        Apply
//	s state                             layer: height, parent, number of chunks          newLayer
//	c state chunk(2)                    places and event ids of a layer                  newLayer
//	f hash of state ids                 state id: a resolution                           resolve
//	m str(user) room                    membership of a local user                       Apply, PutMembership
//	l room str(membership) rest(user)   nothing: local users by membership               Apply
//	v room rest(server)                 number of joined users                           Apply
//	u rest(user)                        User as JSON                                     PutUser
//	d str(user) rest(device)            Device as JSON                                   PutDevice
//	h token hash(32)                    user, device                                     PutDevice
//	R rest(token)                       RegistrationToken as JSON                        PutRegistrationToken
//	a str(user) str(room) rest(type)    position, content                                PutAccountData
//	A str(user) position                room, type                                       PutAccountData
//	F str(user) rest(filter)            the filter                                       PutFilter
//	x str(user) str(device) hash(32)    event: hash of scope and transaction id          PutTxn
//	X str(user) str(device) event       transaction id                                   PutTxn
//	k room str(type) str(user) rest(th) position of the receipt                          PutReceipt
//	K room position                     the receipt                                      PutReceipt
//	i rest(alias)                       room, creator                                    PutAlias
//	I room rest(alias)                  nothing                                          PutAlias
//	P room                              nothing: in the public room directory            SetPublished
//	C rest(name)                        position of a reader                             SetCursor
//	S rest(server)                      signed server record                             PutServerRecord
const (
	kindSchema    = 'V'
	kindTotals    = 'T'
	kindLastState = 'Y'
	kindNode      = 'e'
	kindBody      = 'b'
	kindGap       = 'g'
	kindPending   = 'p'
	kindRoom      = 'r'
	kindTimeline  = 't'
	kindLocal     = 'o'
	kindLayer     = 's'
	kindChunk     = 'c'
	kindResolved  = 'f'
	kindMember    = 'm'
	kindMemberBy  = 'l'
	kindServerIn  = 'v'
	kindUser      = 'u'
	kindDevice    = 'd'
	kindToken     = 'h'
	kindRegToken  = 'R'
	kindData      = 'a'
	kindDataPos   = 'A'
	kindFilter    = 'F'
	kindTxn       = 'x'
	kindTxnOf     = 'X'
	kindReceipt   = 'k'
	kindRcptPos   = 'K'
	kindAlias     = 'i'
	kindAliasOf   = 'I'
	kindPublished = 'P'
	kindCursor    = 'C'
	kindRecord    = 'S'
)

// schemaVersion is the version that this program reads and writes.
//
// History:
//
//	1  first version
const schemaVersion = 1

// hash is the 32 bytes that the id of an event or a room stands for.
type hash [32]byte

var idEncoding = base64.RawURLEncoding.Strict()

func parseHash(s string, sigil byte) (h hash, ok bool) {
	if len(s) != 44 || s[0] != sigil {
		return h, false
	}
	_, err := idEncoding.Decode(h[:], []byte(s[1:]))
	return h, err == nil
}

func eventHash(id event.ID) (hash, bool)    { return parseHash(string(id), '$') }
func roomHash(id event.RoomID) (hash, bool) { return parseHash(string(id), '!') }

func (h hash) text(sigil byte) string {
	var b [44]byte
	b[0] = sigil
	idEncoding.Encode(b[1:], h[:])
	return string(b[:])
}

func (h hash) event() event.ID    { return event.ID(h.text('$')) }
func (h hash) room() event.RoomID { return event.RoomID(h.text('!')) }

func key0(kind byte) []byte { return []byte{kind} }

func keyHash(kind byte, h hash) []byte {
	b := make([]byte, 0, 41)
	b = append(b, kind)
	return append(b, h[:]...)
}

func keyHashNumber(kind byte, h hash, n uint64) []byte {
	return binary.BigEndian.AppendUint64(keyHash(kind, h), n)
}

func keyHashText(kind byte, h hash, s string) []byte { return append(keyHash(kind, h), s...) }

func keyNumber(kind byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, n)
}

func keyText(kind byte, s string) []byte { return append([]byte{kind}, s...) }

func addString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func keyChunk(id StateID, chunk int) []byte {
	return binary.BigEndian.AppendUint16(keyNumber(kindChunk, uint64(id)), uint16(chunk))
}

func keyMember(u event.UserID, room hash) []byte {
	return append(addString([]byte{kindMember}, string(u)), room[:]...)
}

func keyMembers(u event.UserID) []byte { return addString([]byte{kindMember}, string(u)) }

func keyMemberBy(room hash, membership string, u event.UserID) []byte {
	return append(addString(keyHash(kindMemberBy, room), membership), u...)
}

func keyDevice(u event.UserID, device string) []byte {
	return append(addString([]byte{kindDevice}, string(u)), device...)
}

func keyData(u event.UserID, room event.RoomID, typ string) []byte {
	return append(addString(addString([]byte{kindData}, string(u)), string(room)), typ...)
}

func keyDataPos(u event.UserID, p Position) []byte {
	return binary.BigEndian.AppendUint64(addString([]byte{kindDataPos}, string(u)), uint64(p))
}

func keyFilter(u event.UserID, id string) []byte {
	return append(addString([]byte{kindFilter}, string(u)), id...)
}

// keyTxns is the prefix of the transaction rows of a device; kind is kindTxn or
// kindTxnOf.
func keyTxns(kind byte, u event.UserID, device string) []byte {
	return addString(addString([]byte{kind}, string(u)), device)
}

func keyTxn(kind byte, u event.UserID, device string, h hash) []byte {
	return append(keyTxns(kind, u, device), h[:]...)
}

func keyReceipt(room hash, typ string, u event.UserID, thread string) []byte {
	return append(addString(addString(keyHash(kindReceipt, room), typ), string(u)), thread...)
}

// scanPrefix returns the prefix under which a row is read together with others
// so often that what was read is kept: memberships and account data of a user,
// receipts of a room, receipts of a user in a room.
func scanPrefix(key string) (string, bool) {
	switch key[0] {
	case kindMember:
		return key[:len(key)-len(hash{})], true
	case kindDataPos, kindRcptPos:
		return key[:len(key)-8], true
	case kindReceipt:
		n := 1 + len(hash{})
		for range 2 { // type and user
			n += 2 + int(key[n])<<8 + int(key[n+1])
		}
		return key[:n], true
	}
	return "", false
}

// lastNumber is the position at the end of a key.
func lastNumber(key []byte) Position {
	return Position(binary.BigEndian.Uint64(key[len(key)-8:]))
}

// lastHash is the id at the end of a key.
func lastHash(key []byte) (h hash) {
	copy(h[:], key[len(key)-len(h):])
	return h
}

// cutString takes a "str" part off b, which starts at it.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}
