package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errCorrupt says that a row cannot be read. It names the row by its kind.
var errCorrupt = errors.New("store is damaged")

// encoder writes the fields of a row, one after another.
type encoder struct{ b []byte }

func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) number(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) hash(h hash)     { e.b = append(e.b, h[:]...) }
func (e *encoder) text(s string)   { e.number(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) bytes(s []byte)  { e.number(uint64(len(s))); e.b = append(e.b, s...) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func (e *encoder) hashes(hs []hash) {
	e.number(uint64(len(hs)))
	for _, h := range hs {
		e.hash(h)
	}
}

// decoder reads what encoder wrote. After a read beyond the end every read
// gives zero and end reports the damage.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	v := d.take(1)
	if v == nil {
		return 0
	}
	return v[0]
}

func (d *decoder) bool() bool { return d.byte() == 1 }

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) hash() (h hash) {
	copy(h[:], d.take(uint64(len(h))))
	return h
}

func (d *decoder) text() string { return string(d.take(d.number())) }

// bytes returns a copy, nil if empty.
func (d *decoder) bytes() []byte {
	v := d.take(d.number())
	if len(v) == 0 {
		return nil
	}
	return append([]byte(nil), v...)
}

func (d *decoder) hashes() []hash {
	n := d.number()
	if n > uint64(len(d.b))/32 {
		d.bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	hs := make([]hash, n)
	for i := range hs {
		hs[i] = d.hash()
	}
	return hs
}

// end reports whether the row was read exactly.
func (d *decoder) end(what string) error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%w: %s row is malformed", errCorrupt, what)
	}
	return nil
}

func encodeNumber(n uint64) []byte { return binary.AppendUvarint(nil, n) }

func decodeNumber(v []byte, what string) (uint64, error) {
	d := decoder{b: v}
	n := d.number()
	return n, d.end(what)
}
