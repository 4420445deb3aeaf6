package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/tokenim/tokenim/node/event"
)

// AccountData returns an entry, or ErrNotFound. r is empty for global data.
func (tx *Tx) AccountData(u event.UserID, r event.RoomID, typ string) (*AccountData, error) {
	v, err := tx.get(keyData(u, r, typ))
	if err != nil {
		return nil, err
	}
	d := decoder{b: v}
	a := &AccountData{Room: r, Type: typ, Position: Position(d.number()), Content: d.bytes()}
	return a, d.end("account data")
}

// PutAccountData writes an entry with a new position.
func (tx *Tx) PutAccountData(u event.UserID, a AccountData) error {
	old, err := tx.AccountData(u, a.Room, a.Type)
	if err == nil {
		err = tx.delete(keyDataPos(u, old.Position))
	} else if errors.Is(err, ErrNotFound) {
		err = nil
	}
	if err != nil {
		return err
	}
	p, err := tx.NextPosition()
	if err != nil {
		return err
	}
	var e, index encoder
	e.number(uint64(p))
	e.bytes(a.Content)
	if err := tx.set(keyData(u, a.Room, a.Type), e.b); err != nil {
		return err
	}
	index.text(string(a.Room))
	index.text(a.Type)
	return tx.set(keyDataPos(u, p), index.b)
}

// AllAccountData returns the entries of a user with a position after, in the
// order of room and type.
func (tx *Tx) AllAccountData(u event.UserID, after Position) ([]AccountData, error) {
	prefix := keyDataPos(u, 0)
	prefix = prefix[:len(prefix)-8]
	all, err := scan(tx, prefix, costOfData, func() ([]AccountData, error) { return tx.accountData(u, prefix) })
	all = slices.DeleteFunc(slices.Clone(all), func(a AccountData) bool { return a.Position <= after })
	return all, err
}

// accountData reads all entries of a user.
func (tx *Tx) accountData(u event.UserID, prefix []byte) ([]AccountData, error) {
	var all []AccountData
	err := tx.each(prefix, nil, func(_, v []byte) error {
		d := decoder{b: v}
		r, typ := event.RoomID(d.text()), d.text()
		if err := d.end("account data index"); err != nil {
			return err
		}
		a, err := tx.AccountData(u, r, typ)
		if err != nil {
			return err
		}
		all = append(all, *a)
		return nil
	})
	sort.Slice(all, func(i, j int) bool {
		if all[i].Room != all[j].Room {
			return all[i].Room < all[j].Room
		}
		return all[i].Type < all[j].Type
	})
	return all, err
}

func costOfData(all []AccountData) (n int64) {
	for _, a := range all {
		n += int64(150 + len(a.Content))
	}
	return n
}

// Filter returns a stored filter, or ErrNotFound.
func (tx *Tx) Filter(u event.UserID, id string) (json.RawMessage, error) {
	return tx.get(keyFilter(u, id))
}

// PutFilter stores a filter and returns its id; equal filters share one.
func (tx *Tx) PutFilter(u event.UserID, f json.RawMessage) (string, error) {
	sum := sha256.Sum256(f)
	id := base64.RawURLEncoding.EncodeToString(sum[:15])
	return id, tx.set(keyFilter(u, id), bytes.Clone(f))
}

func txnHash(scope, txn string) hash {
	return sha256.Sum256(append(addString(nil, scope), txn...))
}

// Txn returns the event that a device sent under a transaction id, or ErrNotFound.
// scope separates endpoints ("send", "redact").
func (tx *Tx) Txn(u event.UserID, device, scope, txn string) (event.ID, error) {
	v, err := tx.get(keyTxn(kindTxn, u, device, txnHash(scope, txn)))
	if err != nil {
		return "", err
	}
	d := decoder{b: v}
	h := d.hash()
	return h.event(), d.end("transaction")
}

// PutTxn remembers a transaction id.
func (tx *Tx) PutTxn(u event.UserID, device, scope, txn string, id event.ID) error {
	h, ok := eventHash(id)
	if !ok {
		return badID(string(id))
	}
	if err := tx.set(keyTxn(kindTxn, u, device, txnHash(scope, txn)), h[:]); err != nil {
		return err
	}
	return tx.set(keyTxn(kindTxnOf, u, device, h), []byte(txn))
}

// TxnOf returns the transaction id under which this device sent the event, or "".
func (tx *Tx) TxnOf(u event.UserID, device string, id event.ID) (string, error) {
	h, ok := eventHash(id)
	if !ok {
		return "", nil
	}
	v, err := tx.get(keyTxn(kindTxnOf, u, device, h))
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return string(v), err
}

// badID says that an id is none of room version 12.
func badID(id string) error {
	return fmt.Errorf("%w: %.80q is no id of room version 12", event.ErrInvalid, id)
}

// PutReceipt writes a receipt with a new position, replacing the user's earlier
// one of the same type and thread. It is news of the room (Room.Last) if the
// room is held here.
func (tx *Tx) PutReceipt(r Receipt) error {
	room, ok := roomHash(r.Room)
	if !ok {
		return badID(string(r.Room))
	}
	key := keyReceipt(room, r.Type, r.User, r.Thread)
	old, err := tx.get(key)
	if err == nil {
		n, err := decodeNumber(old, "receipt")
		if err != nil {
			return err
		}
		if err := tx.delete(keyHashNumber(kindRcptPos, room, n)); err != nil {
			return err
		}
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	p, err := tx.NextPosition()
	if err != nil {
		return err
	}
	var e encoder
	e.text(r.Type)
	e.text(string(r.User))
	e.text(r.Thread)
	e.text(string(r.Event))
	e.number(uint64(r.Time))
	if err := tx.set(keyHashNumber(kindRcptPos, room, uint64(p)), e.b); err != nil {
		return err
	}
	if err := tx.set(key, encodeNumber(uint64(p))); err != nil {
		return err
	}
	return tx.touchRoom(room, p)
}

// Receipts returns the receipts of a room with a position after, oldest first.
func (tx *Tx) Receipts(r event.RoomID, after Position) ([]Receipt, error) {
	room, ok := roomHash(r)
	if !ok {
		return nil, nil
	}
	var all []Receipt
	if newest, err := tx.newestReceipt(room); err != nil || newest <= after {
		return nil, err
	}
	start := keyHashNumber(kindRcptPos, room, uint64(after+1))
	err := tx.each(keyHash(kindRcptPos, room), start, func(k, v []byte) error {
		rc, err := decodeReceipt(r, k, v)
		if err == nil {
			all = append(all, *rc)
		}
		return err
	})
	return all, err
}

// Alias returns the room of a local alias and who made it, or ErrNotFound.
func (tx *Tx) Alias(alias string) (event.RoomID, event.UserID, error) {
	v, err := tx.get(keyText(kindAlias, alias))
	if err != nil {
		return "", "", err
	}
	d := decoder{b: v}
	h, by := d.hash(), d.text()
	return h.room(), event.UserID(by), d.end("alias")
}

// PutAlias writes a local alias.
func (tx *Tx) PutAlias(alias string, r event.RoomID, by event.UserID) error {
	room, ok := roomHash(r)
	if !ok {
		return badID(string(r))
	}
	if err := tx.DeleteAlias(alias); err != nil {
		return err
	}
	var e encoder
	e.hash(room)
	e.text(string(by))
	if err := tx.set(keyText(kindAlias, alias), e.b); err != nil {
		return err
	}
	return tx.set(keyHashText(kindAliasOf, room, alias), nil)
}

// DeleteAlias removes a local alias.
func (tx *Tx) DeleteAlias(alias string) error {
	r, _, err := tx.Alias(alias)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	room, _ := roomHash(r)
	if err := tx.delete(keyHashText(kindAliasOf, room, alias)); err != nil {
		return err
	}
	return tx.delete(keyText(kindAlias, alias))
}

// Aliases returns the local aliases of a room.
func (tx *Tx) Aliases(r event.RoomID) ([]string, error) {
	room, ok := roomHash(r)
	if !ok {
		return nil, nil
	}
	var all []string
	prefix := keyHash(kindAliasOf, room)
	err := tx.each(prefix, nil, func(k, _ []byte) error {
		all = append(all, string(k[len(prefix):]))
		return nil
	})
	return all, err
}

// SetPublished puts a room in the public room directory or takes it out.
func (tx *Tx) SetPublished(r event.RoomID, on bool) error {
	room, ok := roomHash(r)
	if !ok {
		return badID(string(r))
	}
	if !on {
		return tx.delete(keyHash(kindPublished, room))
	}
	return tx.set(keyHash(kindPublished, room), nil)
}

// Published returns the rooms of the public room directory.
func (tx *Tx) Published() ([]event.RoomID, error) { return tx.roomsOf(kindPublished) }

// roomsOf returns the rooms that the keys of a kind name.
func (tx *Tx) roomsOf(kind byte) ([]event.RoomID, error) {
	var all []event.RoomID
	err := tx.each(key0(kind), nil, func(k, _ []byte) error {
		all = append(all, lastHash(k).room())
		return nil
	})
	return all, err
}

// Cursor returns a reader's saved position, 0 if none.
func (tx *Tx) Cursor(name string) (Position, error) {
	v, err := tx.get(keyText(kindCursor, name))
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := decodeNumber(v, "cursor")
	return Position(n), err
}

// SetCursor saves a reader's position.
func (tx *Tx) SetCursor(name string, p Position) error {
	return tx.set(keyText(kindCursor, name), encodeNumber(uint64(p)))
}

// ServerRecord returns the newest signed record of a server as it was received,
// or ErrNotFound.
func (tx *Tx) ServerRecord(s event.Server) ([]byte, error) {
	return tx.get(keyText(kindRecord, string(s)))
}

// PutServerRecord keeps a verified record.
func (tx *Tx) PutServerRecord(s event.Server, raw []byte) error {
	return tx.set(keyText(kindRecord, string(s)), bytes.Clone(raw))
}

// ServerRecords returns all kept records.
func (tx *Tx) ServerRecords() (map[event.Server][]byte, error) {
	all := map[event.Server][]byte{}
	err := tx.each(key0(kindRecord), nil, func(k, v []byte) error {
		all[event.Server(k[1:])] = bytes.Clone(v)
		return nil
	})
	return all, err
}
