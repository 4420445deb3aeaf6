package store

import (
	"errors"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

const typeRedaction = "m.room.redaction"

// applyRedactions lets a new event take effect as a redaction, and lets the
// redactions that were there before it take effect on it. A redaction counts
// when both events are known, in either order, and the state at the redaction
// allows it (room version 12, Handling redactions).
func (tx *Tx) applyRedactions(a *applied) error {
	if a.v.status == Accepted && a.e.Type == typeRedaction && a.e.StateKey == nil {
		if err := tx.redactBy(a); err != nil {
			return err
		}
	}
	if a.known != nil {
		return nil // what waited took effect when it became known
	}
	key := keyHash(kindPending, a.id)
	waiting, err := tx.pendingRedactions(key)
	if err != nil || len(waiting) == 0 {
		return err
	}
	for _, w := range waiting {
		by, err := tx.vertex(w.id)
		if err != nil {
			return err
		}
		e, err := tx.body(w.id, by)
		if err != nil {
			return err
		}
		done, err := tx.redact(a.id, &a.v, w.id, e, by.before)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	return tx.delete(key)
}

// redactBy carries out the redaction a, or keeps it for when its target comes.
func (tx *Tx) redactBy(a *applied) error {
	target, ok := eventHash(a.e.Redacts())
	if !ok || target == a.id {
		return nil
	}
	v, err := tx.vertex(target)
	if errors.Is(err, ErrNotFound) {
		return tx.keepRedaction(target, a)
	}
	if err != nil {
		return err
	}
	_, err = tx.redact(target, v, a.id, a.e, a.v.before)
	return err
}

// KeepRedaction keeps the redaction of an event of which only a redacted copy is
// known, beside the graph if it is not known: whoever gets the copy from here must
// see that it is what is left of a good one. It changes nothing for events that
// are whole, not known, or have their redaction.
func (tx *Tx) KeepRedaction(target event.ID, by *event.Event) error {
	h, ok := eventHash(target)
	if !ok || by.Type != typeRedaction || by.Redacts() != target {
		return badID(string(target))
	}
	v, err := tx.vertex(h)
	if errors.Is(err, ErrNotFound) || err == nil && (!v.redacted || v.redactedBy != none) {
		return nil
	} else if err != nil {
		return err
	}
	if by.Room.Create() != v.room.room().Create() || by.ID() == target {
		return badID(string(by.ID()))
	}
	if err := tx.PutOutlier(by); err != nil {
		return err
	}
	v.redactedBy, _ = eventHash(by.ID())
	return tx.setVertex(h, v)
}

// redact replaces the bytes of a target by their redacted form if the redaction
// may do that. v is the target's row, which it changes.
func (tx *Tx) redact(target hash, v *vertex, by hash, redaction *event.Event, before StateID) (bool, error) {
	at, err := tx.vertex(by)
	if err != nil {
		return false, err
	}
	if v.redactedBy != none || at.room != v.room {
		return false, nil
	}
	l, err := tx.levels(v.room, before)
	if err != nil {
		return false, err
	}
	e, err := tx.body(target, v)
	if err != nil {
		return false, err
	}
	if !room.CanRedact(l, redaction.Sender, e) {
		return false, nil
	}
	red, err := e.Redact()
	if err != nil {
		return false, err
	}
	v.redacted, v.redactedBy = red.Redacted(), by
	if err := tx.set(keyHash(kindBody, target), red.JSON()); err != nil {
		return false, err
	}
	if err := tx.setVertex(target, v); err != nil {
		return false, err
	}
	tx.redacted = append(tx.redacted, target)
	tx.markStale(target)
	return true, nil
}

func (tx *Tx) levels(in hash, at StateID) (room.Levels, error) {
	create, err := tx.event(in)
	if err != nil {
		return room.Levels{}, err
	}
	s, err := tx.State(at)
	if err != nil {
		return room.Levels{}, err
	}
	return room.LevelsOf(create, s)
}

// waitingRedaction is a redaction whose target is not known.
type waitingRedaction struct {
	id     hash
	power  bool // may redact events of everybody
	server event.Server
}

func (tx *Tx) pendingRedactions(key []byte) ([]waitingRedaction, error) {
	b, err := tx.get(key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []waitingRedaction
	d := decoder{b: b}
	for len(d.b) > 0 && !d.bad {
		all = append(all, waitingRedaction{d.hash(), d.bool(), event.Server(d.text())})
	}
	return all, d.end("waiting redaction")
}

// keepRedaction keeps a redaction for later: of those with the power to redact
// anything one, of the others one for each server, whose events alone they can
// redact. More would never be needed and would cost whoever likes to send them
// nothing.
func (tx *Tx) keepRedaction(target hash, a *applied) error {
	l, err := tx.levels(a.v.room, a.v.before)
	if err != nil {
		return err
	}
	w := waitingRedaction{
		id: a.id, server: a.e.Sender.Server(),
		power: l.User(a.e.Sender) >= l.Action("redact"),
	}
	key := keyHash(kindPending, target)
	all, err := tx.pendingRedactions(key)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.power || (!w.power && o.server == w.server) {
			return nil
		}
	}
	var e encoder
	for _, o := range append(all, w) {
		e.hash(o.id)
		e.bool(o.power)
		e.text(string(o.server))
	}
	return tx.set(key, e.b)
}
