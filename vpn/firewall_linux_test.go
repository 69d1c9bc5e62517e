package vpn

import (
	"slices"
	"testing"
)

func TestForwardDrops(t *testing.T) {
	// Of nft 1.0.6 beside Docker.
	const out = `{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
		{"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 9}},
		{"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
		{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 2, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
		{"chain": {"family": "inet", "table": "gatemesh0", "name": "forward", "handle": 1, "type": "filter", "hook": "forward", "prio": -150, "policy": "accept"}}]}`
	drops, err := forwardDrops([]byte(out))
	if err != nil || !slices.Equal(drops, []string{"ip filter FORWARD"}) {
		t.Errorf("%q, %v", drops, err)
	}
	if _, err := forwardDrops([]byte("Error: syntax error")); err == nil {
		t.Error("what is no JSON was read")
	}
}
