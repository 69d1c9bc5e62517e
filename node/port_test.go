package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/nodetest"
)

// A gateway is restarted with another port: its devices are served by the other one meanwhile, and those that are sent
// to it afterwards are answered from the new port, of which they knew nothing.
func TestListenPortChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 8)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		time.Sleep(300 * time.Millisecond)
		b.Start()
		w.WaitReady(6*time.Second, a, b)
		d := w.Device(1, "d1", a, b)
		e := w.Device(2, "d2", a, b)
		devices := []*nodetest.Device{d, e}
		for _, d := range devices {
			if !d.Ping(nodetest.Inner, time.Second) {
				t.Fatal("no reply")
			}
		}
		a.Stop()
		a.Start(func(cfg *node.Config) { cfg.Listen = ":51999" })
		if longest := silence(devices, 10*time.Second); longest > time.Second {
			t.Errorf("silent for %v", longest)
		}
		w.WaitReady(6*time.Second, a, b)
		fresh := w.Device(3, "d3", b, b) // the other one has two
		if !fresh.Ping(nodetest.Inner, time.Second) {
			t.Fatal("no reply")
		}
		if at := fresh.Peer(t).Endpoint; at.Addr() != a.Addr || at.Port() != 51999 {
			t.Errorf("served at %v", at)
		}
	})
}
