package vpn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// Why Run ends although its context has not. Sessions are kept: Reopen and another Run go on with them.
var (
	ErrSocket = errors.New("UDP socket failed")
	ErrTUN    = errors.New("TUN failed")
)

// downLeast is how long the TUN must be down to have failed: on its way up it may say so.
const downLeast = time.Second

// Reopen gives a Gateway whose Run has ended by ErrSocket or ErrTUN its port again and a new TUN, which belongs to the
// Gateway from here on, also when Reopen fails. Then Run may be called again, or Reopen once more.
func (g *Gateway) Reopen(dev tun.Device) error {
	g.life.Lock()
	defer g.life.Unlock()
	switch {
	case g.life.isClosed:
		return errors.Join(ErrClosed, dev.Close())
	case g.life.isRunning || !g.life.started:
		return errors.Join(errors.New("gateway has not failed"), dev.Close())
	}
	receive, _, err := g.cfg.Bind.Open(g.port)
	if err != nil {
		return errors.Join(&PortError{g.port, err}, dev.Close())
	}
	g.receive, g.life.spent = receive, false
	g.dev.Store(&dev)
	g.life.closeIO = g.ioCloser()
	return nil
}

// ioCloser returns what closes the bind and the TUN as they are now, once.
func (g *Gateway) ioCloser() func() error {
	bind, dev := g.cfg.Bind, g.tun()
	return sync.OnceValue(func() error { return errors.Join(bind.Close(), dev.Close()) })
}

// watchTUN follows whether the TUN is up: what devices send through one that somebody set down goes nowhere.
func (g *Gateway) watchTUN(ctx context.Context) error {
	down := time.NewTimer(time.Hour)
	down.Stop()
	defer down.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-down.C:
			return fmt.Errorf("%w: interface is down", ErrTUN)
		case e, ok := <-g.tun().Events():
			switch {
			case !ok: // reading says why
				return nil
			case e&tun.EventUp != 0:
				down.Stop()
			case e&tun.EventDown != 0:
				down.Reset(downLeast)
			}
		}
	}
}
