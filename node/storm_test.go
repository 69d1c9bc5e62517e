package node_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/node"
	"gatemesh/node/nodetest"
)

// Sixteen gateways start in the same second with one key and nothing else.
func TestSixteenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 81)
		w.Net.Loss(.02)
		var all []*nodetest.Gateway
		for i := 1; i <= 16; i++ {
			all = append(all, w.Gateway(i, fmt.Sprint("g", i)))
		}
		for _, g := range all {
			g.Start()
			time.Sleep(time.Second / 16)
		}
		took := w.Wait("one cluster of all gateways", 9*time.Second, func() bool { return oneOf(t, all...) != "" })
		t.Logf("one cluster of sixteen %v after the last start", took)
	})
}

// oneOf returns the name of the cluster that all gateways are in, ready and
// seeing each other; "": they are not.
func oneOf(t *testing.T, all ...*nodetest.Gateway) string {
	t.Helper()
	name := ""
	for _, g := range all {
		s, err := g.Status(context.Background())
		if err != nil || !s.Ready || s.Gateways != len(all) || name != "" && s.Cluster != name {
			return ""
		}
		name = s.Cluster
	}
	return name
}

// Two clusters with different keys on one LAN do not notice each other.
func TestTwoKeysOnOneLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := nodetest.New(t, 82)
		var sides [2][]*nodetest.Gateway
		for i := 1; i <= 6; i++ {
			key := w.Key
			key[1] = byte(i % 2)
			g := w.Gateway(i, fmt.Sprint("g", i))
			g.Start(func(c *node.Config) { c.Key = &key })
			sides[i%2] = append(sides[i%2], g)
		}
		w.Wait("two clusters", 9*time.Second, func() bool {
			return oneOf(t, sides[0]...) != "" && oneOf(t, sides[1]...) != ""
		})
		time.Sleep(5 * time.Minute)
		for _, side := range sides {
			for _, g := range side {
				list, err := g.ListGateways(context.Background())
				if err != nil || len(list) != len(side) {
					t.Errorf("%s lists %d gateways, %v", g.Name, len(list), err)
				}
			}
		}
		if oneOf(t, sides[0]...) == oneOf(t, sides[1]...) {
			t.Error("one cluster of two keys")
		}
	})
}
