package node_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/node/api"
	"gatemesh/node/labtest"
)

// TestLabVisible adds devices at one gateway and asks all three for them until each has them.
func TestLabVisible(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := apiClients(t, gws)
	var acknowledged, visible labtest.Durations
	for i := range size(20, 500) {
		name := fmt.Sprint("seen-", i)
		began := time.Now()
		key := deviceKey(i)
		d := api.NewDevice{Name: name, PublicKey: base64.StdEncoding.EncodeToString(key[:])}
		if _, err := clients[0].AddDevice(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		acknowledged = append(acknowledged, time.Since(began))
		for _, c := range clients {
			poll(t, recoverLimit, func() bool {
				_, err := c.ShowDevice(t.Context(), name)
				return err == nil
			})
		}
		visible = append(visible, time.Since(began))
		lab.Observe(20 * time.Millisecond)
	}
	lab.Bar(visible.P(.99) <= 300*time.Millisecond, "a write is visible at all three: p99 %v", visible.P(.99))
	t.Logf("%d writes: acknowledged p50 %v p99 %v, visible at all three p50 %v p99 %v",
		len(visible), acknowledged.P(.5), acknowledged.P(.99), visible.P(.5), visible.P(.99))
}

// TestLabManyDevices starts a gateway whose store holds many devices, lets two others join, cuts one off, changes ten
// cells, and measures what it takes until that one has them.
func TestLabManyDevices(t *testing.T) {
	patient(t)
	lab := newLab(t)
	n := size(2_000, 100_000)
	first := lab.Gateway("gw1")
	first.Start("--name", first.Name)
	first.WaitReady()
	key := first.Key()
	self, err := cluster.ParseNode(first.Gateways()[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	first.Stop()
	fillStore(t, first, self, n)
	began := time.Now()
	first.Start()
	first.WaitReady()
	var table labtest.Table
	table.Row("with", "started after", "joined after", "RSS when ready", "10 cells: after healing", "after the link was back", "bytes from healing on")
	started, rss := time.Since(began), first.Process.Usage().RSS

	gws := []*labtest.Gateway{first, lab.Gateway("gw2"), lab.Gateway("gw3")}
	began = time.Now()
	for _, g := range gws[1:] {
		g.Start("--name", g.Name, "--key", key, "--join", first.Addr.String())
		g.WaitReady()
	}
	joined := time.Since(began) / 2
	waitOneCluster(lab, gws)
	clients := apiClients(t, gws)
	away := gws[2]
	inStep := func() bool {
		s, err := clients[0].SyncStatus(t.Context())
		if err != nil || len(s.Peers) != len(gws)-1 {
			return false
		}
		for _, p := range s.Peers {
			if !p.Linked || !p.InStep {
				return false
			}
		}
		return true
	}
	named := func(i int) string { return fmt.Sprint("device-", i) }
	for range size(2, 7) {
		lab.Eventually(recoverLimit, "all are in step", inStep)
		away.Loss(100, 100)
		lab.Eventually(recoverLimit, "the one cut off is missed", func() bool {
			s, err := clients[0].SyncStatus(t.Context())
			return err == nil && (!s.Peers[0].Linked || !s.Peers[1].Linked)
		})
		mark := strconv.FormatInt(time.Now().UnixNano(), 36)
		changed := func(i int) string { return fmt.Sprint("changed-", i, "-", mark) }
		for i := range 10 {
			name := changed(i)
			if _, err := clients[0].ChangeDevice(t.Context(), named(i), api.DeviceChange{Name: &name}); err != nil {
				t.Fatal(err)
			}
		}
		named = changed
		lab.Observe(2 * time.Second)
		log := len(away.Process.Log())
		bytes := trafficOf(away)
		healed := time.Now()
		away.Loss(0, 0)
		var linked time.Time
		poll(t, recoverLimit, func() bool {
			if linked.IsZero() && strings.Contains(away.Process.Log()[log:], `"gateway up"`) {
				linked = time.Now()
			}
			for i := range 10 {
				if _, err := clients[2].ShowDevice(t.Context(), changed(i)); err != nil {
					return false
				}
			}
			return !linked.IsZero()
		})
		took, sinceLink := time.Since(healed), time.Since(linked)
		used := trafficOf(away) - bytes
		table.Row(fmt.Sprint(n, " devices"), started, joined, fmt.Sprint(rss>>20, " MiB"), took, sinceLink, used)
		lab.Bar(used < 64<<10, "ten cells took %d bytes", used)
		lab.Bar(sinceLink < time.Second, "ten cells took %v", sinceLink)
	}
	for _, g := range gws {
		t.Logf("%s: RSS %d MiB", g.Name, g.Process.Usage().RSS>>20)
	}
	t.Log(&table)
}

// apiClients returns a client of each gateway's API.
func apiClients(t *testing.T, gws []*labtest.Gateway) (all []*api.Client) {
	for _, g := range gws {
		c := api.NewClient(g.Socket())
		t.Cleanup(c.Close)
		all = append(all, c)
	}
	return all
}

// poll asks each millisecond until ok: what is measured takes few of them.
func poll(t *testing.T, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v", limit)
		}
	}
}

// fillStore enrols devices in the store of a gateway that is not running.
func fillStore(t *testing.T, g *labtest.Gateway, self cluster.Node, n int) {
	t.Helper()
	s, err := cluster.Open(cluster.Config{Dir: filepath.Join(g.Data, "store"), Node: self})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var run errgroup.Group
	run.Go(func() error { return s.Run(ctx) })
	var next atomic.Int64
	var writers errgroup.Group
	for range 128 {
		writers.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if _, err := s.AddDevice(ctx, fmt.Sprint("device-", i), deviceKey(int(i))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = writers.Wait()
	stop()
	_ = run.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func deviceKey(i int) (k cluster.Key) {
	binary.BigEndian.PutUint64(k[:], uint64(i)+1)
	k[20] = 7
	return k
}

// trafficOf returns how many bytes a node has sent and received.
func trafficOf(g *labtest.Gateway) (sum uint64) {
	for _, line := range strings.Split(g.Run("cat", "/proc/net/dev"), "\n") {
		name, figures, ok := strings.Cut(line, ":")
		if f := strings.Fields(figures); ok && strings.TrimSpace(name) != "lo" && len(f) > 8 {
			rx, _ := strconv.ParseUint(f[0], 10, 64)
			tx, _ := strconv.ParseUint(f[8], 10, 64)
			sum += rx + tx
		}
	}
	return sum
}
