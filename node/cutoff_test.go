package node_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/nodetest"
	"gatemesh/vpn/vpntest"
)

// whereabouts is how often devices change their gateway, the longest time that
// one was without an answer, and how many pings found none in all.
type whereabouts struct {
	moves map[string]int
	gap   time.Duration
	lost  int
}

// watch pings the devices every 20 ms for a while and sees where they send to.
func watch(t *testing.T, devices []*nodetest.Device, during time.Duration, gateways ...*nodetest.Gateway) whereabouts {
	t.Helper()
	w := whereabouts{moves: map[string]int{}}
	stop := steadily(devices)
	at := map[string]*nodetest.Gateway{}
	for begin := time.Now(); time.Since(begin) < during; time.Sleep(20 * time.Millisecond) {
		for _, d := range devices {
			now := d.At(t, gateways...)
			if was := at[d.Name]; was != nil && was != now {
				w.moves[d.Name]++
			}
			at[d.Name] = now
		}
	}
	w.lost, w.gap = stop()
	return w
}

// split is three gateways, and devices of which those of the last gateway are
// sent a packet every 50 ms from what lies behind it, until stop.
type split struct {
	all     []*nodetest.Gateway
	devices []*nodetest.Device
	mine    []*nodetest.Device // of the last gateway
	stop    func()
}

func newSplit(t *testing.T, w *nodetest.World) *split {
	t.Helper()
	s := &split{all: []*nodetest.Gateway{w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")}}
	lan := vpntest.NewEchoTUN(0)
	for _, g := range s.all {
		g.Start(func(cfg *node.Config) {
			if g.Name == "c" {
				cfg.TUN = lan
			}
		})
		time.Sleep(300 * time.Millisecond)
	}
	w.WaitReady(6*time.Second, s.all...)
	s.devices = connected(t, w, 12, s.all[0])
	var pokes [][]byte
	for _, d := range s.devices {
		if d.At(t, s.all...) == s.all[2] {
			s.mine = append(s.mine, d)
			pokes = append(pokes, vpntest.Packet(nodetest.Inner.Next(), d.Inner, 17, make([]byte, 16)))
		}
	}
	end := make(chan struct{})
	var poking sync.WaitGroup
	poking.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond):
			}
			for _, p := range pokes {
				lan.Inject(p)
			}
		}
	})
	s.stop = func() {
		close(end)
		poking.Wait()
	}
	return s
}

func (s *split) cut(w *nodetest.World) {
	w.Net.Cut(addrs(s.all[2].Addr), addrs(s.all[0].Addr, s.all[1].Addr))
}

func (s *split) heal(w *nodetest.World) {
	w.Net.Heal(addrs(s.all[2].Addr), addrs(s.all[0].Addr, s.all[1].Addr))
}

// rest heals the split and fails unless no device notices and all agree.
func (s *split) rest(t *testing.T, w *nodetest.World) {
	t.Helper()
	s.stop()
	s.heal(w)
	if seen := watch(t, s.devices, 5*time.Second, s.all...); seen.gap > 300*time.Millisecond {
		t.Errorf("a device was silent for %v after the healing", seen.gap)
	}
	w.WaitReady(15*time.Second, s.all...)
	atRest(t, s.devices, s.all...)
}

// A gateway is cut off from the others, but not from the devices, nor from what
// lies behind it and sends to them. Each side takes the other's devices, and
// nobody who does not hear a device any more pulls it back.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 61)
		s := newSplit(t, w)
		s.cut(w)
		seen := watch(t, s.devices, 50*time.Second, s.all...)
		t.Logf("longest gap %v, %d pings lost", seen.gap, seen.lost)
		for _, d := range s.devices {
			if n := seen.moves[d.Name]; n != 1 {
				t.Errorf("%s changed its gateway %d times, want once", d.Name, n)
			}
		}
		if seen.gap > 300*time.Millisecond || seen.lost > 15*len(s.devices) {
			t.Errorf("a device was silent for %v, %d pings lost", seen.gap, seen.lost)
		}
		s.rest(t, w)
	})
}

// A device makes new keys with the gateway that is cut off before it is missed.
// Its heir calls it by the old ones, and what is on its way under the new ones
// leads it back to where nobody knows those that it made with the heir.
func TestKeysMadeAfterTheCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 62)
		s := newSplit(t, w)
		time.Sleep(5 * time.Second) // after which a client may initiate again
		s.cut(w)
		for _, d := range s.mine {
			d.Handshake(t)
		}
		seen := watch(t, s.mine, 50*time.Second, s.all...)
		t.Logf("longest gap %v, %d pings lost, moves %v", seen.gap, seen.lost, seen.moves)
		if seen.gap > time.Second || seen.lost > 50*len(s.mine) { // a second each
			t.Errorf("a device was silent for %v, %d pings lost", seen.gap, seen.lost)
		}
		for _, d := range s.mine {
			if n := seen.moves[d.Name]; n > 6 {
				t.Errorf("%s changed its gateway %d times", d.Name, n)
			}
		}
		s.rest(t, w)
	})
}
