package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
)

func TestUsers(t *testing.T) {
	s := mustOpen(t, Options{})
	names := []string{"b", "a", "c:d", "aa"}
	update(t, s, func(tx *Tx) error {
		for _, n := range names {
			u := &User{ID: user(n, home), Role: "user", Created: 5, Profile: map[string]json.RawMessage{"displayname": []byte(`"N"`)}}
			if err := tx.PutUser(u); err != nil {
				return err
			}
		}
		return nil
	})
	update(t, s, func(tx *Tx) error {
		u, err := tx.User(user("a", home))
		if err != nil {
			return err
		}
		u.Deactivated = true
		return errors.Join(tx.PutUser(u), tx.PutUser(u))
	})
	view(t, s, func(tx *Tx) error {
		if n, err := tx.CountUsers(); n != 3 || err != nil {
			t.Errorf("%d users, %v", n, err)
		}
		var got []event.UserID
		for after := event.UserID(""); ; {
			page, err := tx.Users(after, 3)
			if err != nil {
				return err
			}
			for _, u := range page {
				got = append(got, u.ID)
			}
			if len(page) < 3 {
				break
			}
			after = got[len(got)-1]
		}
		if !slices.IsSorted(got) || len(got) != 4 {
			t.Errorf("%v", got)
		}
		if _, err := tx.User("@nobody:x"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		u, err := tx.User(user("b", home))
		if err == nil && (string(u.Profile["displayname"]) != `"N"` || u.Created != 5) {
			t.Errorf("%+v", u)
		}
		return err
	})
}

func TestDevices(t *testing.T) {
	s := mustOpen(t, Options{})
	alice, ali := user("alice", home), user("ali", home)
	device := func(u event.UserID, id string, token byte) *Device {
		return &Device{User: u, ID: id, Token: [32]byte{token}}
	}
	update(t, s, func(tx *Tx) error {
		return errors.Join(
			tx.PutDevice(device(alice, "A", 1)), tx.PutDevice(device(alice, "AB", 2)), tx.PutDevice(device(ali, "ceA", 3)),
			tx.PutTxn(alice, "A", "send", "t1", fakeHash(1).event()),
			tx.PutTxn(alice, "A", "redact", "t1", fakeHash(2).event()),
			tx.PutTxn(alice, "AB", "send", "t1", fakeHash(3).event()),
		)
	})
	view(t, s, func(tx *Tx) error {
		d, err := tx.DeviceByToken([32]byte{1})
		if err != nil || d.User != alice || d.ID != "A" {
			t.Errorf("%+v, %v", d, err)
		}
		for scope, n := range map[string]int{"send": 1, "redact": 2} {
			id, err := tx.Txn(alice, "A", scope, "t1")
			if err != nil || id != fakeHash(n).event() {
				t.Errorf("%s: %s, %v", scope, id, err)
			}
		}
		if _, err := tx.Txn(alice, "A", "send", "t2"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if txn, err := tx.TxnOf(alice, "A", fakeHash(1).event()); txn != "t1" || err != nil {
			t.Errorf("%q, %v", txn, err)
		}
		if txn, err := tx.TxnOf(alice, "AB", fakeHash(1).event()); txn != "" || err != nil {
			t.Errorf("%q, %v", txn, err)
		}
		return nil
	})
	update(t, s, func(tx *Tx) error { // a new token kills the old one
		return errors.Join(tx.PutDevice(device(alice, "A", 4)), tx.PutDevice(device(alice, "A", 4)))
	})
	update(t, s, func(tx *Tx) error { return errors.Join(tx.DeleteDevice(alice, "A"), tx.DeleteDevice(alice, "A")) })
	view(t, s, func(tx *Tx) error {
		for _, token := range []byte{1, 4} {
			if _, err := tx.DeviceByToken([32]byte{token}); !errors.Is(err, ErrNotFound) {
				t.Errorf("token %d: %v", token, err)
			}
		}
		if _, err := tx.Txn(alice, "A", "send", "t1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("transaction of a deleted device: %v", err)
		}
		if id, err := tx.Txn(alice, "AB", "send", "t1"); id != fakeHash(3).event() || err != nil {
			t.Errorf("transaction of another device: %s, %v", id, err)
		}
		all, err := tx.Devices(alice)
		if len(all) != 1 || all[0].ID != "AB" {
			t.Errorf("%+v", all)
		}
		return err
	})
}

func TestRegistrationTokens(t *testing.T) {
	s := mustOpen(t, Options{})
	update(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutRegistrationToken(&RegistrationToken{Token: "a", Uses: 1, Owner: true}),
			tx.PutRegistrationToken(&RegistrationToken{Token: "b", Uses: -1}), tx.DeleteRegistrationToken("b"))
	})
	view(t, s, func(tx *Tx) error {
		a, err := tx.RegistrationToken("a")
		if err != nil || !a.Owner || a.Uses != 1 {
			t.Errorf("%+v, %v", a, err)
		}
		all, err := tx.RegistrationTokens()
		if len(all) != 1 {
			t.Errorf("%v", all)
		}
		return err
	})
}

func TestAccountData(t *testing.T) {
	s := mustOpen(t, Options{})
	alice := user("alice", home)
	rooms := []event.RoomID{"", fakeHash(1).room(), fakeHash(2).room()}
	put := func(r event.RoomID, typ, content string) {
		t.Helper()
		update(t, s, func(tx *Tx) error {
			return tx.PutAccountData(alice, AccountData{Room: r, Type: typ, Content: []byte(content)})
		})
	}
	put(rooms[1], "b", `1`)
	put(rooms[0], "z", `2`)
	put(rooms[1], "a", `3`)
	put(rooms[0], "z", `4`)
	update(t, s, func(tx *Tx) error {
		return tx.PutAccountData(user("alic", home), AccountData{Room: rooms[2], Type: "other", Content: []byte(`5`)})
	})
	view(t, s, func(tx *Tx) error {
		all, err := tx.AllAccountData(alice, 0)
		var got string
		for _, a := range all {
			got += a.Type + string(a.Content) + " "
		}
		if got != "z4 a3 b1 " {
			t.Errorf("%s", got)
		}
		if err != nil {
			return err
		}
		if all, err = tx.AllAccountData(alice, 3); len(all) != 1 || all[0].Type != "z" || all[0].Position != 4 {
			t.Errorf("%+v", all)
		}
		if err != nil {
			return err
		}
		if _, err := tx.AccountData(alice, rooms[2], "b"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		a, err := tx.AccountData(alice, rooms[1], "b")
		if err == nil && (a.Room != rooms[1] || string(a.Content) != `1`) {
			t.Errorf("%+v", a)
		}
		return err
	})
}

func TestFilters(t *testing.T) {
	s := mustOpen(t, Options{})
	alice, bob := user("alice", home), user("bob", home)
	var ids []string
	update(t, s, func(tx *Tx) error {
		for _, f := range []string{`{"a":1}`, `{"a":2}`, `{"a":1}`} {
			id, err := tx.PutFilter(alice, []byte(f))
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	if ids[0] != ids[2] || ids[0] == ids[1] || strings.HasPrefix(ids[0], "{") {
		t.Errorf("%q", ids)
	}
	view(t, s, func(tx *Tx) error {
		f, err := tx.Filter(alice, ids[1])
		if string(f) != `{"a":2}` || err != nil {
			t.Errorf("%s, %v", f, err)
		}
		if _, err := tx.Filter(bob, ids[1]); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		return nil
	})
}

func TestReceipts(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	alice, bob := user("alice", home), user("bob", other)
	put := func(typ string, u event.UserID, thread string, n int) {
		t.Helper()
		update(t, s, func(tx *Tx) error {
			return tx.PutReceipt(Receipt{Room: w.room, Type: typ, User: u, Thread: thread, Event: fakeHash(n).event(), Time: int64(n)})
		})
	}
	before := w.roomNow().Last
	put("m.read", alice, "", 1)
	put("m.read", bob, "", 2)
	put("m.read", alice, "main", 3)
	put("m.read", alice, "", 4)
	view(t, s, func(tx *Tx) error {
		all, err := tx.Receipts(w.room, 0)
		if len(all) != 3 || all[0].User != bob || all[2].Time != 4 || all[2].Event != fakeHash(4).event() || all[1].Thread != "main" {
			t.Errorf("%+v", all)
		}
		if err != nil {
			return err
		}
		all, err = tx.Receipts(w.room, before+3)
		if len(all) != 1 || all[0].Position != before+4 || all[0].Room != w.room {
			t.Errorf("%+v", all)
		}
		if err != nil {
			return err
		}
		if all, err = tx.UserReceipts(w.room, alice, "m.read.private", "m.read"); len(all) != 2 || all[0].Time != 4 || all[1].Thread != "main" {
			t.Errorf("of one user: %+v", all)
		}
		if err != nil {
			return err
		}
		if _, err := tx.Receipt(w.room, "m.read", bob, "main"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		one, err := tx.Receipt(w.room, "m.read", alice, "main")
		if err == nil && (one.Time != 3 || one.User != alice || one.Position != before+3) {
			t.Errorf("one: %+v", one)
		}
		return err
	})
	if r := w.roomNow(); r.Last != before+4 || r.Last != s.Position() {
		t.Errorf("news of the room at %d", r.Last)
	}
}

func TestAliases(t *testing.T) {
	s := mustOpen(t, Options{})
	a, b := fakeHash(1).room(), fakeHash(2).room()
	update(t, s, func(tx *Tx) error {
		return errors.Join(
			tx.PutAlias("#one:x", a, "@u:x"), tx.PutAlias("#two:x", a, "@u:x"), tx.PutAlias("#one:x", b, "@v:x"),
			tx.DeleteAlias("#none:x"), tx.SetPublished(a, true), tx.SetPublished(b, true), tx.SetPublished(a, false),
		)
	})
	view(t, s, func(tx *Tx) error {
		r, by, err := tx.Alias("#one:x")
		if r != b || by != "@v:x" || err != nil {
			t.Errorf("%s, %s, %v", r, by, err)
		}
		for r, want := range map[event.RoomID][]string{a: {"#two:x"}, b: {"#one:x"}} {
			if got, err := tx.Aliases(r); !slices.Equal(got, want) || err != nil {
				t.Errorf("%v, %v", got, err)
			}
		}
		if got, err := tx.Published(); !slices.Equal(got, []event.RoomID{b}) || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		return nil
	})
}

func TestServerRecords(t *testing.T) {
	s := mustOpen(t, Options{})
	raw := []byte("record")
	update(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutServerRecord("a", raw), tx.PutServerRecord("ab", []byte("second")), tx.SetCursor("c", 0))
	})
	raw[0] = 'X' // the caller keeps its bytes
	view(t, s, func(tx *Tx) error {
		all, err := tx.ServerRecords()
		if len(all) != 2 || !bytes.Equal(all["a"], []byte("record")) {
			t.Errorf("%q", all)
		}
		if err != nil {
			return err
		}
		if _, err := tx.ServerRecord("b"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		p, err := tx.Cursor("unknown")
		if p != 0 {
			t.Error(p)
		}
		return err
	})
}

// Names that break the grammar give errors, never other rows.
func TestBadNames(t *testing.T) {
	s := mustOpen(t, Options{})
	long := strings.Repeat("x", 70_000)
	for what, fn := range map[string]func(*Tx) error{
		"alias of no room":     func(tx *Tx) error { return tx.PutAlias("#a:x", "!room:x", "@u:x") },
		"published no room":    func(tx *Tx) error { return tx.SetPublished("!room:x", true) },
		"receipt in no room":   func(tx *Tx) error { return tx.PutReceipt(Receipt{Room: "!"}) },
		"membership in none":   func(tx *Tx) error { return tx.PutMembership(Membership{Room: "", User: "@u:x"}) },
		"transaction of none":  func(tx *Tx) error { return tx.PutTxn("@u:x", "D", "send", "t", "$x") },
		"account data, long":   func(tx *Tx) error { return tx.PutAccountData("@u:x", AccountData{Type: long}) },
		"account data, longer": func(tx *Tx) error { return tx.PutAccountData(event.UserID(long), AccountData{Type: "t"}) },
	} {
		if err := s.Update(t.Context(), fn); !errors.Is(err, event.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	view(t, s, func(tx *Tx) error {
		if _, err := tx.AccountData("@u:x", "", long); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		return nil
	})
	if s.Position() != 0 {
		t.Errorf("position %d", s.Position())
	}
}

func TestPutMembership(t *testing.T) {
	s := mustOpen(t, Options{})
	alice := user("alice", home)
	m := Membership{
		Room: fakeHash(3).room(), User: alice, Membership: "invite", Event: fakeHash(4).event(), Sender: "@bob:x",
		Stripped: []byte(`[{}]`), Raw: []byte(`{"a":1}`),
	}
	update(t, s, func(tx *Tx) error { return tx.PutMembership(m) })
	view(t, s, func(tx *Tx) error {
		got, err := tx.Membership(alice, m.Room)
		m.Position = 1
		if fmt.Sprint(*got) != fmt.Sprint(m) {
			t.Errorf("%+v", got)
		}
		return err
	})
}

func TestHashes(t *testing.T) {
	h := fakeHash(77)
	if got, ok := eventHash(h.event()); !ok || got != h {
		t.Error(got, ok)
	}
	if got, ok := roomHash(h.room()); !ok || got != h {
		t.Error(got, ok)
	}
	id := []byte(h.event())
	id[43]++ // spare bits of the last character: another text for the same bytes
	if _, ok := eventHash(event.ID(id)); ok {
		t.Error("two texts for one id")
	}
	for _, bad := range []string{"", "$", "!" + string(h.event()[1:]), string(h.event()) + "a"} {
		if _, ok := eventHash(event.ID(bad)); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}
