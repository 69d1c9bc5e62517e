package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/cluster"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// namesAt returns the names of the devices that a gateway knows.
func namesAt(t *testing.T, g *nodetest.Gateway) string {
	t.Helper()
	cfg, err := g.Config(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range cfg.Devices {
		names = append(names, d.Name)
	}
	return strings.Join(names, " ")
}

// TestRestoredGateway replaces one of three gateways by one made from an old
// backup, at the same address, at first alone or with the others in reach. What was
// done since comes back, what was removed and forgotten does not, and what it did alone is not lost.
func TestRestoredGateway(t *testing.T) {
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone=%v", alone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testRestoredGateway(t, alone) })
		})
	}
}

func testRestoredGateway(t *testing.T, alone bool) {
	w := nodetest.New(t, 900)
	a, b, c := w.Gateway(1, "a"), w.Gateway(2, "b"), w.Gateway(3, "c")
	soon := func(cfg *node.Config) { cfg.Horizon = 10 * time.Minute } // so deletions are looked at each minute
	for _, g := range []*nodetest.Gateway{a, b, c} {
		g.Start(soon)
		time.Sleep(300 * time.Millisecond)
	}
	w.WaitReady(10*time.Second, a, b, c)
	for _, name := range []string{"kept", "old", "removed"} {
		w.Enrol(c, name)
	}
	w.Wait("devices everywhere", 5*time.Second, func() bool { return namesAt(t, a) == "kept old removed" })
	var backup bytes.Buffer
	if err := c.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	name := "new"
	if _, err := a.ChangeDevice(t.Context(), "old", api.DeviceChange{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveDevice(t.Context(), "removed"); err != nil {
		t.Fatal(err)
	}
	w.Enrol(c, "late") // by the gateway that will be lost: its numbers go on elsewhere
	w.Wait("changes everywhere", 5*time.Second, func() bool {
		return namesAt(t, b) == "kept late new" && namesAt(t, c) == "kept late new"
	})
	w.Wait("the deletion is forgotten", 9*time.Minute, func() bool {
		s, err := a.SyncStatus(t.Context())
		return err == nil && s.Deletions == 0
	})
	c.Kill()
	if alone {
		a.Vanish()
		b.Vanish()
	}
	dir := t.TempDir()
	if _, err := node.RestoreInto(t.Context(), node.Config{Data: dir, Name: "c"}, &backup); err != nil {
		t.Fatal(err)
	}
	c.Start(func(cfg *node.Config) { cfg.Data = dir })
	want := "kept late new"
	if alone {
		w.Wait("ready alone", 10*time.Second, func() bool { return c.Ready(1) })
		if got := namesAt(t, c); got != "kept old removed" {
			t.Errorf("made from the backup: %s", got)
		}
		time.Sleep(time.Minute)
		w.Enrol(c, "alone")
		want = "alone " + want
		a.Return()
		b.Return()
	}
	w.Wait("one state", time.Minute, func() bool {
		return namesAt(t, a) == want && namesAt(t, b) == want && namesAt(t, c) == want
	})
	w.WaitReady(time.Minute, a, b, c)
	for _, g := range []*nodetest.Gateway{a, b, c} {
		r, err := g.VerifyAudit(t.Context())
		if err != nil || len(r.Faults) > 0 || r.Records == 0 {
			t.Errorf("audit of %s: %+v %v", g.Name, r, err)
		}
	}
}

// TestRestoreNothingByHalf: of a backup that ends too early nothing is merged,
// into a running gateway or into a directory.
func TestRestoreNothingByHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 901)
		a := w.Gateway(1, "a")
		a.Start()
		w.WaitReady(10*time.Second, a)
		w.Enrol(a, "laptop")
		var backup bytes.Buffer
		if err := a.Backup(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		cut := backup.Bytes()[:backup.Len()-3]
		var refused *api.Error
		if _, err := a.Restore(t.Context(), bytes.NewReader(cut)); !errors.As(err, &refused) || refused.Code != api.Invalid {
			t.Errorf("a backup cut short: %v", err)
		}
		unplugged := errors.New("unplugged")
		r := io.MultiReader(bytes.NewReader(cut), &broken{unplugged})
		if _, err := a.Restore(t.Context(), r); !errors.Is(err, unplugged) {
			t.Errorf("a reader that fails: %v", err)
		}
		dir := t.TempDir()
		if _, err := node.RestoreInto(t.Context(), node.Config{Data: dir}, bytes.NewReader(cut)); err == nil {
			t.Error("made a gateway from a backup cut short")
		}
		if _, err := node.RestoreInto(t.Context(), node.Config{Data: dir}, &backup); err != nil {
			t.Errorf("the directory is not empty after a refusal: %v", err)
		}
	})
}

type broken struct{ err error }

func (b *broken) Read([]byte) (int, error) { return 0, b.err }

// TestAuditReachesAll: what is done at one gateway is told at all, with who did it.
func TestAuditReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 902)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		time.Sleep(300 * time.Millisecond)
		b.Start()
		w.WaitReady(10*time.Second, a, b)
		w.Enrol(a, "laptop")
		ctx := cluster.WithActor(t.Context(), cluster.Actor{Name: "user anna", Source: "test"})
		if err := a.RemoveDevice(ctx, "laptop"); err != nil {
			t.Fatal(err)
		}
		w.Wait("the record at the other gateway", 5*time.Second, func() bool {
			records, err := b.ListAudit(t.Context(), api.AuditQuery{Last: 1})
			if err != nil || len(records) != 1 {
				return false
			}
			r := records[0]
			return r.Actor == "user anna" && r.Source == "test" && r.Action == "remove" && r.Gateway == "a" && strings.HasPrefix(r.Object, "device laptop ")
		})
		records, err := b.ListAudit(t.Context(), api.AuditQuery{})
		if err != nil {
			t.Fatal(err)
		}
		admitted := false
		for _, r := range records {
			other := map[string]string{"a": "b", "b": "a"}[r.Gateway] // either may have begun the cluster
			admitted = admitted || r.Actor == "gateway "+r.Gateway && r.Action == "admit" && strings.HasPrefix(r.Object, "admission "+other+" ")
		}
		if !admitted {
			t.Errorf("nothing tells that one admitted the other: %+v", records)
		}
	})
}
