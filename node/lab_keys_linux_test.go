package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatemesh/node/api"
	"gatemesh/node/labtest"
)

// settled says whether each of the gateways has one key of each kind, which all of them use.
func settled(gws []*labtest.Gateway) bool {
	for _, g := range gws {
		var r api.KeyRing
		if g.TryJSON(&r, "keys", "status") != nil || len(r.Keys) != 2 {
			return false
		}
		for _, k := range r.Keys {
			if k.Used != k.Of || k.Of != len(gws) {
				return false
			}
		}
	}
	return true
}

// TestLabRotate replaces both keys, once while a gateway is away and twice without waiting for it, under clients that
// ping. No ping is lost, and the one that was away comes back without help.
func TestLabRotate(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	away := gws[2]
	away.Stop()
	clients := addClients(t, lab, gws[0], 20)
	connect(t, lab, clients)
	lab.Observe(2 * time.Second)
	p := startPings(lab, clients)
	began := time.Now()
	var table labtest.Table
	table.Row("rotation", "in use at those present", "one cluster after the start", "one key everywhere")
	for i := range size(2, 6) {
		rotations, flags := 1, []string(nil)
		if i%2 == 1 {
			rotations, flags = 2, []string{"--force", away.Name}
		}
		from := time.Now()
		for range rotations {
			for _, kind := range []string{"gossip", "cluster"} {
				gws[0].CLI(append([]string{"keys", "rotate", kind}, flags...)...)
			}
			lab.Eventually(recoverLimit, "the new keys are in use", func() bool {
				var r api.KeyRing
				gws[1].JSON(&r, "keys", "status")
				return r.Keys[0].State == api.KeyInUse && r.Keys[0].Used == 2 && (flags == nil || len(r.Keys) == 2)
			})
		}
		used := time.Since(from)
		away.Start()
		one := waitOneCluster(lab, gws)
		from = time.Now()
		lab.Eventually(recoverLimit, "one key of each kind", func() bool { return settled(gws) })
		table.Row(i+1, labtest.Round(used), labtest.Round(one), labtest.Round(time.Since(from)))
		if i+1 < size(2, 6) {
			away.Stop()
			lab.Observe(time.Second)
		}
	}
	lab.Observe(2 * time.Second)
	lost := 0
	for _, log := range p.stop() {
		lost += log.LostSince(began)
	}
	t.Log(&table)
	lab.Bar(lost == 0, "pings lost while keys are replaced and a gateway comes and goes: %d", lost)
}

// TestLabEvict evicts a gateway that serves clients. The others refuse it within a second, its clients go on with them,
// it ends, and neither its old keys nor a restart, with its memory of that put away, let it in.
func TestLabEvict(t *testing.T) {
	patient(t)
	lab := newLab(t)
	gws := threeGateways(t, lab)
	clients := addClients(t, lab, gws[0], 9)
	connect(t, lab, clients)
	old := gws[0].Key()
	victim, rest := gws[2], gws[:2]
	_, owner := owners(t, gws, clients)
	p := startPings(lab, clients)
	lab.Observe(time.Second)
	victim.Process.MayEnd()
	at := time.Now()
	gws[0].CLI("gateway", "evict", victim.Name, "--yes")
	refused := lab.Eventually(recoverLimit, "refused by all others", func() bool {
		for _, g := range rest {
			if s := g.Status(); s.Gateways != 2 || len(g.Gateways()) != 2 {
				return false
			}
		}
		return true
	})
	p.waitBack(at, func(c *labtest.Client) bool { return owner[c] == 2 })
	ended := lab.Eventually(recoverLimit, "it has ended", victim.Process.Ended)
	lab.Observe(time.Second)
	var gaps labtest.Durations
	end := time.Now()
	for i, log := range p.stop() {
		if gap, _ := log.Gap(at, end); owner[clients[i]] == 2 {
			gaps = append(gaps, gap)
		}
	}
	if after, _ := owners(t, gws, clients); after[2] != 0 {
		t.Errorf("%d clients still send to it", after[2])
	}
	lab.Eventually(recoverLimit, "new keys", func() bool { return settled(rest) })

	for _, memory := range []bool{true, false} {
		if !memory {
			_ = os.Remove(filepath.Join(victim.Data, "evicted.json"))
		}
		victim.Start("--key", old, "--join", gws[0].Addr.String())
		victim.Process.MayEnd()
		lab.Eventually(recoverLimit, "it has ended again", victim.Process.Ended)
		if log := victim.Process.Log(); !strings.Contains(log, "this gateway was evicted from its cluster") {
			t.Errorf("it ended saying %s", log)
		}
		if !oneCluster(rest) {
			t.Error("it was seen again")
		}
	}
	fresh := lab.Gateway("gw4")
	fresh.Start("--key", old, "--join", gws[1].Addr.String())
	fresh.Process.MayEnd()
	lab.Eventually(recoverLimit, "a stranger with the old key has ended", fresh.Process.Ended)
	if log := fresh.Process.Log(); !strings.Contains(log, "has another key") {
		t.Errorf("it ended saying %s", log)
	}
	lab.Bar(refused <= time.Second, "refused by all others %v after the command; it ended %v later; its clients' gap p50 %v max %v",
		refused, ended, gaps.P(.5), gaps.P(1))
}
