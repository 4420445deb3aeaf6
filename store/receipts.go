package store

import (
	"errors"
	"math"

	"github.com/tokenim/tokenim/node/event"
)

// Receipt returns a user's receipt of a type and thread, or ErrNotFound.
func (tx *Tx) Receipt(r event.RoomID, typ string, u event.UserID, thread string) (*Receipt, error) {
	room, ok := roomHash(r)
	if !ok {
		return nil, ErrNotFound
	}
	at, err := tx.get(keyReceipt(room, typ, u, thread))
	if err != nil {
		return nil, err
	}
	return tx.receiptAt(r, room, at)
}

// UserReceipts returns the receipts of one user in a room, of the given types:
// its cost does not depend on how many others have one.
func (tx *Tx) UserReceipts(r event.RoomID, u event.UserID, types ...string) ([]Receipt, error) {
	room, ok := roomHash(r)
	if !ok {
		return nil, nil
	}
	var all []Receipt
	for _, typ := range types {
		prefix := keyReceipt(room, typ, u, "")
		some, err := scan(tx, prefix, costOfReceipts, func() (some []Receipt, err error) {
			err = tx.each(prefix, nil, func(_, v []byte) error {
				rc, err := tx.receiptAt(r, room, v)
				if err == nil {
					some = append(some, *rc)
				}
				return err
			})
			return some, err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func costOfReceipts(all []Receipt) int64 { return 300 * int64(len(all)) }

// newestReceipt returns the position of a room's newest receipt, 0 if it has none.
func (tx *Tx) newestReceipt(room hash) (Position, error) {
	prefix := keyHash(kindRcptPos, room)
	return scan(tx, prefix, func(Position) int64 { return 0 }, func() (p Position, err error) {
		err = tx.eachBack(prefix, keyHashNumber(kindRcptPos, room, math.MaxUint64), func(k, _ []byte) error {
			p = lastNumber(k)
			return errStop
		})
		return p, err
	})
}

// receiptAt returns the receipt at the position that a row of kindReceipt holds.
func (tx *Tx) receiptAt(r event.RoomID, room hash, row []byte) (*Receipt, error) {
	n, err := decodeNumber(row, "receipt")
	if err != nil {
		return nil, err
	}
	key := keyHashNumber(kindRcptPos, room, n)
	v, err := tx.get(key)
	if errors.Is(err, ErrNotFound) {
		return nil, errCorrupt
	} else if err != nil {
		return nil, err
	}
	return decodeReceipt(r, key, v)
}

func decodeReceipt(r event.RoomID, key, v []byte) (*Receipt, error) {
	d := decoder{b: v}
	rc := &Receipt{
		Room: r, Type: d.text(), User: event.UserID(d.text()), Thread: d.text(),
		Event: event.ID(d.text()), Time: int64(d.number()), Position: lastNumber(key),
	}
	return rc, d.end("receipt")
}
