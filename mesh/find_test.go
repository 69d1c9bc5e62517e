package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gatemesh/mesh"
	"gatemesh/mesh/meshtest"
)

// starter is a gateway that looks for its cluster: it begins one, or joins
// one, and is a member from then on.
type starter struct {
	i     int
	after time.Duration // until it starts
	work  time.Duration // from Find to being a member
	port  uint16
}

func (s starter) find(n *meshtest.Network, clusterKey byte) mesh.FindConfig {
	return mesh.FindConfig{
		Key: key(fmt.Sprint("s", s.i)), ClusterKey: [32]byte{clusterKey}, Port: s.port,
		LAN: n.LAN(meshtest.Addr(s.i)), Log: testLog(fmt.Sprint("s", s.i)),
	}
}

// begin runs the starters and returns which began a cluster, and when the last
// was a member.
func begin(t *testing.T, n *meshtest.Network, starters ...starter) (begun []int, last time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var starts, announcers sync.WaitGroup
	at := time.Now()
	for _, s := range starters {
		n.Host(meshtest.Addr(s.i))
		starts.Go(func() {
			time.Sleep(s.after)
			cfg := s.find(n, 1)
			members, err := mesh.Find(ctx, cfg)
			if err != nil {
				t.Errorf("find: %v", err)
				return
			}
			mu.Lock()
			if len(members) == 0 {
				begun = append(begun, s.i)
				if d := time.Since(at) - s.after; d < 2*time.Second {
					t.Errorf("began after %v", d)
				}
			}
			mu.Unlock()
			time.Sleep(s.work)
			announcers.Go(func() {
				if err := mesh.Announce(ctx, cfg); err != nil {
					t.Errorf("announce: %v", err)
				}
			})
		})
	}
	starts.Wait()
	last = time.Since(at)
	cancel()
	announcers.Wait()
	return begun, last
}

func TestOneStarterBegins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		begun, d := begin(t, meshtest.NewNetwork(1), starter{i: 1, port: 7946})
		if len(begun) != 1 || d > 2500*time.Millisecond {
			t.Errorf("%v began, after %v", begun, d)
		}
	})
}

func TestSimultaneousStartersBeginOneCluster(t *testing.T) {
	for _, loss := range []float64{0, 0.2} {
		rng := rand.New(rand.NewPCG(7, uint64(loss*10)))
		var worst time.Duration
		for round := range 200 {
			bubble(t, func(t *testing.T) {
				n := meshtest.NewNetwork(uint64(round))
				n.Loss(loss)
				var list []starter
				for i := 1; i <= 3; i++ {
					list = append(list, starter{
						i: i, port: 7946,
						after: rand.N(time.Second), work: time.Duration(rng.Int64N(int64(2 * time.Second))),
					})
				}
				begun, d := begin(t, n, list...)
				if len(begun) != 1 {
					t.Errorf("round %d, loss %v: %v began: %+v", round, loss, begun, list)
				}
				worst = max(worst, d)
			})
		}
		t.Logf("loss %v: all were members after at most %v", loss, worst)
	}
}

// The lowest goes away while the others wait for it.
func TestLowestStarterVanishes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		list := []starter{{i: 1, port: 7946}, {i: 2, port: 7946}, {i: 3, port: 7946}}
		slices.SortFunc(list, func(a, b starter) int {
			x, y := idOf(a.i), idOf(b.i)
			return slices.Compare(x[:], y[:])
		})
		n.Host(meshtest.Addr(list[0].i))
		time.AfterFunc(time.Second, func() { n.Vanish(meshtest.Addr(list[0].i)) })
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		go func() { _, _ = mesh.Find(ctx, list[0].find(n, 1)) }()
		begun, d := begin(t, n, list[1:]...)
		if !slices.Equal(begun, []int{list[1].i}) || d > 7*time.Second {
			t.Errorf("%v began, after %v", begun, d)
		}
	})
}

func idOf(i int) mesh.ID { return gatewayID(key(fmt.Sprint("s", i))) }

func TestFindsMembersOfItsClusterOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := 1; i <= 4; i++ {
			n.Host(meshtest.Addr(i))
			s := starter{i: i, port: uint16(7000 + i)}
			wg.Go(func() { _ = mesh.Announce(ctx, s.find(n, byte(1+i%2))) })
		}
		time.Sleep(time.Second)
		n.Host(meshtest.Addr(9))
		at := time.Now()
		found, err := mesh.Find(ctx, starter{i: 9, port: 7946}.find(n, 1))
		if err != nil || time.Since(at) > time.Second {
			t.Errorf("after %v: %v", time.Since(at), err)
		}
		slices.SortFunc(found, netip.AddrPort.Compare)
		want := []netip.AddrPort{
			netip.AddrPortFrom(meshtest.Addr(2), 7002), netip.AddrPortFrom(meshtest.Addr(4), 7004),
		}
		if !slices.Equal(found, want) {
			t.Errorf("found %v", found)
		}
		cancel()
		wg.Wait()
		if _, err := mesh.Find(ctx, starter{i: 9}.find(n, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// Somebody sends an old hint of a lower starter again and again: the count
// does not rise, so that the starter is gone.
func TestReplayedHintDelaysButDoesNotStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := meshtest.NewNetwork(1)
		lower, higher := starter{i: 1, port: 7946}, starter{i: 2, port: 7946}
		if a, b := idOf(1), idOf(2); slices.Compare(a[:], b[:]) > 0 {
			lower, higher = higher, lower
		}
		n.Host(meshtest.Addr(lower.i))
		n.Host(meshtest.Addr(66))
		mallory, err := n.LAN(meshtest.Addr(66)).Open("mallory", 7946, nil)
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { _, _ = mesh.Find(short, lower.find(n, 1)) }()
		old, _, err := mallory.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = mallory.Announce(old)
				time.Sleep(100 * time.Millisecond)
			}
		})
		begun, d := begin(t, n, higher)
		if len(begun) != 1 || d > 6*time.Second {
			t.Errorf("%v began after %v", begun, d)
		}
		stop()
		wg.Wait()
		mallory.Close()
	})
}
