package vpn

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForwardingPlan(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) {
		got := forwardingPlan("net/ipv4/ip_forward", "net/ipv4/conf/", map[string]string{
			"net/ipv4/conf/all/forwarding":           "0",
			"net/ipv4/conf/all/accept_redirects":     "0",
			"net/ipv4/conf/default/forwarding":       "0",
			"net/ipv4/conf/default/accept_redirects": "0",
			"net/ipv4/conf/eth0/forwarding":          "1",
			"net/ipv4/conf/eth0/accept_redirects":    "0",
			"net/ipv4/conf/eth1/forwarding":          "0",
		})
		want := forwarding{
			set: []sysctlChange{{"net/ipv4/ip_forward", "0", "1"}},
			undo: []sysctlChange{
				{"net/ipv4/ip_forward", "0", "1"},
				{"net/ipv4/conf/all/accept_redirects", "0", "1"},
				{"net/ipv4/conf/eth0/forwarding", "1", "0"},
			},
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(forwarding{})); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("IPv6", func(t *testing.T) {
		got := forwardingPlan("net/ipv6/conf/all/forwarding", "net/ipv6/conf/", map[string]string{
			"net/ipv6/conf/all/forwarding":        "0",
			"net/ipv6/conf/all/accept_ra":         "1",
			"net/ipv6/conf/all/accept_redirects":  "0",
			"net/ipv6/conf/default/forwarding":    "0",
			"net/ipv6/conf/default/accept_ra":     "1",
			"net/ipv6/conf/eth0/forwarding":       "0",
			"net/ipv6/conf/eth0/accept_ra":        "1",
			"net/ipv6/conf/managed/forwarding":    "0",
			"net/ipv6/conf/managed/accept_ra":     "0",
			"net/ipv6/conf/overruled/forwarding":  "0",
			"net/ipv6/conf/overruled/accept_ra":   "2",
			"net/ipv6/conf/routed/forwarding":     "1",
			"net/ipv6/conf/routed/accept_ra":      "1",
			"net/ipv6/conf/lo/forwarding":         "0",
			"net/ipv6/conf/lo/accept_ra":          "1",
			"net/ipv6/conf/vlan0.7/forwarding":    "0",
			"net/ipv6/conf/vlan0.7/accept_ra":     "1",
			"net/ipv6/conf/vlan0.7/accept_source": "1",
		})
		changed := []sysctlChange{
			{"net/ipv6/conf/default/accept_ra", "1", "2"},
			{"net/ipv6/conf/eth0/accept_ra", "1", "2"},
			{"net/ipv6/conf/vlan0.7/accept_ra", "1", "2"},
		}
		want := forwarding{
			set: append(changed[:3:3], sysctlChange{"net/ipv6/conf/all/forwarding", "0", "1"}),
			undo: append([]sysctlChange{
				{"net/ipv6/conf/all/forwarding", "0", "1"},
				{"net/ipv6/conf/routed/forwarding", "1", "0"},
			}, changed...),
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(forwarding{})); diff != "" {
			t.Error(diff)
		}
	})
}

func TestMergeChanges(t *testing.T) {
	a := []sysctlChange{{"net/ipv4/a", "0", "1"}, {"net/ipv4/b", "0", "1"}}
	b := []sysctlChange{{"net/ipv4/b", "7", "8"}, {"net/ipv4/c", "0", "1"}, {"net/ipv4/c", "2", "3"}}
	want := []sysctlChange{{"net/ipv4/a", "0", "1"}, {"net/ipv4/b", "0", "1"}, {"net/ipv4/c", "0", "1"}}
	if diff := cmp.Diff(want, mergeChanges(a, b)); diff != "" {
		t.Error(diff)
	}
	if got := mergeChanges(nil, nil); len(got) != 0 {
		t.Errorf("merge of nothing: %v", got)
	}
}

func TestAlias(t *testing.T) {
	var many []sysctlChange
	for _, name := range strings.Fields("all eth0 eth1 eth2 eth3 eth4 eth5 eth6 eth7 eth8") {
		many = append(many, sysctlChange{"net/ipv6/conf/" + name + "/accept_ra", "1", "2"})
	}
	for _, changes := range [][]sysctlChange{nil, many[:1], many[:6], many} {
		alias := formatAlias(changes)
		if len(alias) > 255 {
			t.Errorf("alias of %d bytes", len(alias))
		}
		got, ok := parseAlias(alias)
		want := changes[:min(len(changes), 7)] // 34 bytes each
		if !ok || len(got) != len(want) || len(want) > 0 && cmp.Diff(want, got) != "" {
			t.Errorf("alias %q of %d changes: parsed as %v", alias, len(changes), got)
		}
	}
	for alias, want := range map[string]bool{
		"":            false,
		"uplink":      false,
		"gatemeshes":  false,
		"my gatemesh": false,
		"gatemesh":    true,
		" gatemesh ../../x=0,1 net/ipv4/../x=0,1 net/ipv4/x=0 net/ipv4/x=,1 net/ipv4/x=0,a kernel/panic=0,1": true,
	} {
		changes, ok := parseAlias(alias)
		if ok != want || len(changes) != 0 {
			t.Errorf("alias %q: %v, %v", alias, changes, ok)
		}
	}
}

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := readRecord(dir); ok || err != nil {
		t.Fatalf("read from an empty directory: %v, %v", ok, err)
	}
	want := hostRecord{Boot: "b", Namespace: "cookie 1", Interface: "gatemesh0", Changes: []sysctlChange{{"net/ipv4/ip_forward", "0", "1"}}}
	for range 2 {
		if err := want.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := readRecord(dir)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		if err := removeRecord(dir); err != nil {
			t.Error(err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}

	if err := os.WriteFile(filepath.Join(dir, recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readRecord(dir); err == nil {
		t.Error("a torn record is read without error")
	}
	if err := os.Truncate(filepath.Join(dir, recordName), recordLimit+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readRecord(dir); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a record beyond all measure: %v", err)
	}
	if err := want.write(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("write to an absent directory: %v", err)
	}
	if err := want.write(""); err != nil {
		t.Error("write to nowhere:", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"boot":"b","namespace":"cookie 1","interface":"gatemesh0","changes":["net/ipv4/ip_forward=0,1"]}`))
	f.Add([]byte(`{"interface":"..","changes":["net/ipv4/../../x=0,1"]}`))
	f.Add([]byte(`{"interface":"a b"}`))
	f.Add([]byte(`{"interface":"gatemesh%d"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(r.Interface, "/%\" \n") || r.Interface == "" || r.Interface == ".." {
			t.Errorf("interface %q", r.Interface)
		}
		for _, c := range r.Changes {
			if !strings.HasPrefix(c.Key, "net/ipv") || strings.Contains(c.Key, "..") && filepath.Clean(c.Key) != c.Key {
				t.Errorf("key %q", c.Key)
			}
			text, _ := c.MarshalText()
			var again sysctlChange
			if err := again.UnmarshalText(text); err != nil || again != c {
				t.Errorf("%q read again: %v, %v", text, again, err)
			}
		}
	})
}

func TestTUNConfig(t *testing.T) {
	prefixes := func(text ...string) (p []netip.Prefix) {
		for _, s := range text {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	for _, c := range []TUNConfig{
		{Name: "gatemesh%d%d"},
		{Name: "../x"},
		{Name: ".."},
		{Name: "a b"},
		{Name: `a"b`},
		{Name: "sixteen-letters-"},
		{MTU: 575},
		{MTU: 65536},
		{MTU: 1279, Addresses: prefixes("fd00::1/64")},
		{MTU: 1279, Masquerade: prefixes("fd00::/64")},
		{Addresses: []netip.Prefix{{}}},
		{Addresses: prefixes("::ffff:100.64.0.1/106")},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	c, err := TUNConfig{Addresses: prefixes("100.64.0.1/10", "fd00::1/64"), Masquerade: prefixes("fd00::/64")}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != DefaultTUNName || c.MTU != 1420 || c.Log == nil {
		t.Errorf("defaults: %+v", c)
	}
	if c = c.withoutIPv6(); c.family(netip.Addr.Is6) || !c.family(netip.Addr.Is4) {
		t.Errorf("without IPv6: %+v", c)
	}
	for _, name := range []string{"wg0", "wg.0", "gatemesh-1", "0vpn", "_%d"} {
		if _, err := (TUNConfig{Name: name}).withDefaults(); err != nil {
			t.Errorf("name %q: %v", name, err)
		}
	}
}
