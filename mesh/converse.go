package mesh

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"time"
)

// joinMargin is what the one who works on a request takes less than the one who waits.
const joinMargin = 5 * time.Second

// OtherError says that another gateway answers at an address than the one that was expected.
type OtherError struct{ Want, Got ID }

// Error names both.
func (e *OtherError) Error() string {
	return fmt.Sprintf("the gateway there has the fingerprint %s, not %s", e.Got, e.Want)
}

// Meet returns who answers at addr: the one to whom its node key belongs. Nothing is said to it.
func Meet(ctx context.Context, key ed25519.PrivateKey, network Network, addr netip.AddrPort) (id ID, err error) {
	err = converse(ctx, key, network, addr, protoJoin, func(w *wire, _ identity) error {
		id = IDOf(w.key)
		return nil
	})
	if err != nil {
		return ID{}, fmt.Errorf("look who is at %s: %w", addr, err)
	}
	return id, nil
}

// converse has talk talk to the gateway at addr over TLS, until talk returns or ctx ends.
func converse(
	ctx context.Context, key ed25519.PrivateKey, network Network, addr netip.AddrPort, proto string,
	talk func(*wire, identity) error,
) error {
	if network == nil {
		network = System
	}
	self, err := newIdentity(key)
	if err != nil {
		return err
	}
	raw, err := network.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	release := context.AfterFunc(ctx, func() { raw.Close() })
	defer release()
	w, err := self.handshake(ctx, raw, true, proto)
	if err == nil {
		err = talk(w, self)
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
