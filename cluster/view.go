package cluster

import (
	"fmt"
	"net/netip"
)

// wireDevice is a device as it is shown, in CBOR: what follows from its cells and
// from who keeps its addresses. It is kept beside the cells so that the question of
// each handshake is one point read.
type wireDevice struct {
	_         struct{} `cbor:",toarray"`
	Name      string
	Created   string
	Enabled   bool
	PSK       []byte
	Addresses [][]byte
}

func viewKey(k Key) []byte { return append([]byte{atView}, k[:]...) }

// review writes the view of a device, or takes it away.
func (t *tx) review(r ref) error {
	key := Key(r.id())
	if _, err := t.entity(r); err != nil {
		return err
	}
	e := t.shown(r)
	if !e.alive() {
		t.delete(viewKey(key))
		return nil
	}
	d, err := deviceOf(t, key, e)
	if err != nil {
		return err
	}
	b, err := d.encode()
	if err != nil {
		return err
	}
	t.set(viewKey(key), b)
	return nil
}

func (d Device) encode() ([]byte, error) {
	w := wireDevice{Name: d.Name, Created: formatTime(d.Created), Enabled: d.Enabled}
	if d.PresharedKey != (Key{}) {
		w.PSK = d.PresharedKey[:]
	}
	for _, a := range d.Addresses {
		w.Addresses = append(w.Addresses, a.AsSlice())
	}
	b, err := encoder.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode device: %w", err)
	}
	return b, nil
}

// readDevice returns a device as of what is committed, or an error that wraps
// ErrNotFound.
func readDevice(r snapshot, key Key) (Device, error) {
	b, err := r.get(viewKey(key))
	if err != nil {
		return Device{}, err
	}
	if b == nil {
		return Device{}, fmt.Errorf("device %s: %w", KeyString(key), ErrNotFound)
	}
	var w wireDevice
	if err := decoder.Unmarshal(b, &w); err != nil {
		return Device{}, fmt.Errorf("decode device: %w", err)
	}
	d := Device{Key: key, Name: w.Name, Created: parseTime(w.Created), Enabled: w.Enabled}
	if len(w.PSK) == len(Key{}) {
		d.PresharedKey = Key(w.PSK)
	}
	d.Addresses = make([]netip.Addr, 0, len(w.Addresses))
	for _, b := range w.Addresses {
		if a, ok := netip.AddrFromSlice(b); ok {
			d.Addresses = append(d.Addresses, a)
		}
	}
	return d, nil
}
