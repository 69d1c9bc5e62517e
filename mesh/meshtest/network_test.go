package meshtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// two returns both ends of a connection over n.
func two(n *Network) (dialer, acceptor net.Conn, err error) {
	a, b := n.Host(Addr(1)), n.Host(Addr(2))
	l, err := b.Listen(":7946")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	c, err := a.Dial(context.Background(), netip.AddrPortFrom(Addr(2), 7946))
	if err != nil {
		return nil, nil, err
	}
	d, err := l.Accept()
	return c, d, err
}

// The connections behave as package net says.
func TestConnConforms(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		n := NewNetwork(1)
		n.Latency(0, 0)
		c, d, err := two(n)
		return c, d, func() { c.Close(); d.Close() }, err
	})
}

func TestStreamKeepsItsBytesThroughACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		n.Latency(10*time.Millisecond, 0)
		at := time.Now()
		c, d, err := two(n)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(at) != 20*time.Millisecond {
			t.Errorf("dialing took %v", time.Since(at))
		}
		b := make([]byte, 10)
		_, _ = c.Write([]byte("one"))
		if k, err := d.Read(b); err != nil || string(b[:k]) != "one" || time.Since(at) != 30*time.Millisecond {
			t.Errorf("%q, %v, after %v", b[:k], err, time.Since(at))
		}
		n.Cut([]netip.Addr{Addr(1)}, []netip.Addr{Addr(2)})
		_, _ = c.Write([]byte("two"))
		_ = d.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := d.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read through a cut: %v", err)
		}
		_ = d.SetReadDeadline(time.Time{})
		n.Heal([]netip.Addr{Addr(1)}, []netip.Addr{Addr(2)})
		if k, err := d.Read(b); err != nil || string(b[:k]) != "two" {
			t.Errorf("%q, %v", b[:k], err)
		}
		_, _ = c.Write([]byte("last"))
		c.Close()
		if all, err := io.ReadAll(d); err != nil || string(all) != "last" {
			t.Errorf("%q, %v", all, err)
		}
		d.Close()
	})
}

func TestKillAndVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		c, d, err := two(n)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		n.Kill(Addr(2))
		if _, err := c.Read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("killed: %v", err)
		}
		if _, err := d.Read(b); !errors.Is(err, net.ErrClosed) {
			t.Errorf("on the killed host: %v", err)
		}
		c.Close()

		if c, d, err = two(n); err != nil {
			t.Fatal(err)
		}
		h := n.hosts[Addr(1)]
		if _, err := h.Dial(t.Context(), netip.AddrPortFrom(Addr(2), 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		n.Vanish(Addr(2))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Dial(ctx, netip.AddrPortFrom(Addr(2), 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("vanished: %v", err)
		}
		if k, err := c.Write(make([]byte, window)); k != window || err != nil {
			t.Errorf("within the window: %d, %v", k, err)
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("beyond the window: %v", err)
		}
		c.Close()
		d.Close()
	})
}

func TestDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		a, err := n.Host(Addr(1)).ListenPacket(":1")
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.Host(Addr(2)).ListenPacket(":2")
		if err != nil {
			t.Fatal(err)
		}
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(Addr(2), 2))
		count := func() (k int) {
			for range 1000 {
				_, _ = a.WriteTo([]byte("x"), to)
				time.Sleep(time.Millisecond)
			}
			buf := make([]byte, 10)
			for {
				_ = b.SetReadDeadline(time.Now().Add(time.Second))
				if _, from, err := b.ReadFrom(buf); errors.Is(err, os.ErrDeadlineExceeded) {
					return k
				} else if err != nil || from.String() != "10.0.0.1:1" {
					t.Fatal(from, err)
				}
				k++
			}
		}
		if k := count(); k != 256 {
			t.Errorf("%d in a queue of 256", k)
		}
		n.Loss(0.9)
		if k := count(); k < 50 || k > 200 {
			t.Errorf("%d of 1000 with 90%% loss", k)
		}
		n.Loss(0)
		n.CutOneWay([]netip.Addr{Addr(1)}, []netip.Addr{Addr(2)})
		if k := count(); k != 0 {
			t.Errorf("%d through a cut", k)
		}
		a.Close()
		b.Close()
		if _, _, err := b.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}
