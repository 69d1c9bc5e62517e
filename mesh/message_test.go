package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// pair returns two gateways that are linked; set prepares each before it runs.
func pair(t *testing.T, n *meshtest.Network, set func(*gateway)) (a, b *gateway) {
	t.Helper()
	a, b = build(t, n, "a", 1), build(t, n, "b", 2)
	for _, g := range []*gateway{a, b} {
		set(g)
		g.launch()
	}
	b.mesh.Connect(addrs(a))
	within(t, 3*time.Second, "meshed", func() bool { return meshed(a, b) })
	return a, b
}

func TestSendKeepsItsOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		a, b := pair(t, meshtest.NewNetwork(1), func(g *gateway) {
			g.mesh.Handle("note", func(_ context.Context, from mesh.ID, p []byte) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(from, " ", string(p)))
				return nil, nil
			})
		})
		for i := range 200 {
			if err := a.mesh.Send(b.id(), "note", fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.mesh.Send(b.id(), "unheard of", nil); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if len(got) != 200 {
			t.Fatalf("%d of 200 arrived", len(got))
		}
		for i, s := range got {
			if s != fmt.Sprint(a.id(), " ", i) {
				t.Fatalf("%d: %s", i, s)
			}
		}
		closeAll(a, b)
	})
}

func TestSendNeverBlocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b := pair(t, n, func(g *gateway) {
			g.mesh.Handle("note", func(context.Context, mesh.ID, []byte) ([]byte, error) {
				time.Sleep(time.Second)
				return nil, nil
			})
		})
		if err := a.mesh.Send(b.id(), "note", make([]byte, mesh.MaxMessage+1)); !errors.Is(err, mesh.ErrTooLong) {
			t.Errorf("too long: %v", err)
		}
		if err := a.mesh.Send(mesh.ID{9}, "note", nil); !errors.Is(err, mesh.ErrNotLinked) {
			t.Errorf("nobody: %v", err)
		}
		n.CutOneWay(hosts(a), hosts(b)) // nothing is read there any more
		at := time.Now()
		busy := 0
		for range 2000 {
			if err := a.mesh.Send(b.id(), "note", make([]byte, mesh.MaxMessage)); errors.Is(err, mesh.ErrBusy) {
				busy++
			}
		}
		if busy == 0 || time.Since(at) != 0 {
			t.Errorf("busy %d times, after %v", busy, time.Since(at))
		}
		n.Heal(hosts(a), hosts(b))
		time.Sleep(time.Minute)
		closeAll(a, b)
		time.Sleep(time.Hour) // the inbox is worked off
	})
}

func TestCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		a, b := pair(t, n, func(g *gateway) {
			g.mesh.Handle("echo", func(_ context.Context, _ mesh.ID, p []byte) ([]byte, error) { return p, nil })
			g.mesh.Handle("large", func(context.Context, mesh.ID, []byte) ([]byte, error) {
				return make([]byte, mesh.MaxAnswer), nil
			})
			g.mesh.Handle("larger", func(context.Context, mesh.ID, []byte) ([]byte, error) {
				return make([]byte, mesh.MaxAnswer+1), nil
			})
			g.mesh.Handle("fail", func(context.Context, mesh.ID, []byte) ([]byte, error) {
				return nil, errors.New("no such device")
			})
			g.mesh.Handle("hang", func(ctx context.Context, _ mesh.ID, _ []byte) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
		})
		ctx := t.Context()
		if p, err := a.mesh.Call(ctx, b.id(), "echo", []byte("x")); err != nil || !bytes.Equal(p, []byte("x")) {
			t.Errorf("echo: %q, %v", p, err)
		}
		if p, err := b.mesh.Call(ctx, a.id(), "large", nil); err != nil || len(p) != mesh.MaxAnswer {
			t.Errorf("large: %d bytes, %v", len(p), err)
		}
		var remote *mesh.RemoteError
		if _, err := a.mesh.Call(ctx, b.id(), "larger", nil); !errors.As(err, &remote) {
			t.Errorf("larger: %v", err)
		}
		if _, err := a.mesh.Call(ctx, b.id(), "fail", nil); !errors.As(err, &remote) || remote.Text != "no such device" {
			t.Errorf("fail: %v", err)
		}
		if _, err := a.mesh.Call(ctx, b.id(), "nonsense", nil); !errors.Is(err, mesh.ErrUnknownKind) {
			t.Errorf("unknown: %v", err)
		}
		if _, err := a.mesh.Call(ctx, mesh.ID{9}, "echo", nil); !errors.Is(err, mesh.ErrNotLinked) {
			t.Errorf("nobody: %v", err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := a.mesh.Call(short, b.id(), "hang", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: %v", err)
		}
		// All places but the last are taken by calls that hang.
		errs := make(chan error, 63)
		for range 63 {
			go func() {
				_, err := a.mesh.Call(ctx, b.id(), "hang", nil)
				errs <- err
			}()
		}
		time.Sleep(10 * time.Millisecond)
		if _, err := a.mesh.Call(ctx, b.id(), "echo", nil); !errors.Is(err, mesh.ErrBusy) {
			t.Errorf("the 65th at once: %v", err)
		}
		b.kill()
		for range 63 {
			if err := <-errs; !errors.Is(err, mesh.ErrNotLinked) {
				t.Errorf("after the kill: %v", err)
			}
		}
		closeAll(a)
	})
}

// Answers of a mebibyte do not make a heartbeat late enough to matter.
func TestHeartbeatsGoBeforeMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := pair(t, meshtest.NewNetwork(1), func(g *gateway) {
			g.cfg.Beat = nil
			g.mesh.Handle("note", func(context.Context, mesh.ID, []byte) ([]byte, error) { return nil, nil })
		})
		at := time.Now()
		for time.Since(at) < time.Second {
			for range 20 {
				_ = a.mesh.Send(b.id(), "note", make([]byte, 10_000))
			}
			time.Sleep(time.Millisecond)
		}
		if k := b.count(mesh.Down, a, at) + a.count(mesh.Down, b, at); k != 0 {
			t.Errorf("%d times down", k)
		}
		closeAll(a, b)
	})
}
