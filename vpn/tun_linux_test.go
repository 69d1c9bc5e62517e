package vpn

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
)

var (
	lan4 = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), wordsPort)
	lan6 = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::2"), wordsPort)
)

// gatewayOrder returns the order that opens the i-th gateway; each has a pool of its own.
func gatewayOrder(t *testing.T, i int) tunOrder {
	return tunOrder{
		Do: "open",
		ID: fmt.Sprint(i),
		Config: TUNConfig{
			Addresses: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.%d.0.1/16", 100+i)),
				netip.MustParsePrefix(fmt.Sprintf("fd00:%d::1/64", i)),
			},
			Masquerade: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", 100+i)),
				netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", i)),
			},
			StateDir: t.TempDir(),
		},
		Device: []netip.Addr{
			netip.MustParseAddr(fmt.Sprintf("10.%d.7.9", 100+i)),
			netip.MustParseAddr(fmt.Sprintf("fd00:%d::9", i)),
		},
	}
}

// reaches checks that gateway id's device gets through to the LAN under the host's address.
func (h *tunProcess) reaches(id string) {
	h.t.Helper()
	for to, from := range map[netip.AddrPort]string{lan4: "192.0.2.1", lan6: "2001:db8::1"} {
		if got, want := h.must(tunOrder{Do: "dial", ID: id, To: to}).Text, "from "+from+" "; !strings.HasPrefix(got, want) {
			h.t.Errorf("gateway %s: server at %s saw %q, want %q", id, to, got, want)
		}
	}
}

func (n *testNet) expectForwarding(when, v4, v6 string) {
	n.t.Helper()
	if got4, got6 := n.forwarding(); got4 != v4 || got6 != v6 {
		n.t.Errorf("%s: forwarding %s and %s, want %s and %s", when, got4, got6, v4, v6)
	}
}

func (n *testNet) expectState(when, want string) {
	n.t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(n.state(), "\n")); diff != "" {
		n.t.Errorf("%s: host differs from before:\n%s", when, diff)
	}
}

func expectNoRecord(t *testing.T, o tunOrder) {
	t.Helper()
	if files, err := os.ReadDir(o.Config.StateDir); err != nil || len(files) != 0 {
		t.Errorf("left in state directory: %v, %v", files, err)
	}
}

func TestTUNForwards(t *testing.T) {
	n := newTestNet(t)
	n.set("net.ipv4.conf.all.accept_redirects", "0") // a hardened host stays one
	n.set("net.ipv6.conf.g0.forwarding", "1")
	before := n.state()
	lan, gw := startHelper(t, n.lan), startHelper(t, n.gw)
	lan.must(tunOrder{Do: "serve"})
	o := gatewayOrder(t, 1)
	if name := gw.must(o).Text; name != "gatemesh0" {
		t.Errorf("interface %q, want gatemesh0", name)
	}
	for _, test := range []struct {
		to       netip.AddrPort
		from     string
		segments int // of a tunnel with MTU 1420
	}{{lan4, "192.0.2.1", 1380}, {lan6, "2001:db8::1", 1360}} {
		a := gw.must(tunOrder{Do: "dial", ID: "1", To: test.to})
		var from string
		var segments int
		if _, err := fmt.Sscanf(a.Text, "from %s segments %d", &from, &segments); err != nil {
			t.Fatal(a.Text, err)
		}
		if from != test.from {
			t.Errorf("server at %s saw %s, want %s", test.to, from, test.from)
		}
		if segments > test.segments || segments < test.segments-40 { // less TCP options
			t.Errorf("server at %s may send segments of %d bytes, want at most %d", test.to, segments, test.segments)
		}
		if int(a.MSS) != test.segments {
			t.Errorf("device may send segments of %d bytes to %s, want %d", a.MSS, test.to, test.segments)
		}
	}
	gw.must(tunOrder{Do: "close", ID: "1"})
	n.expectState("after Close", before)
	expectNoRecord(t, o)
}

// The whole way: a stock device, the Gateway, the kernel with its offloads, the LAN.
func TestTUNBehindGateway(t *testing.T) {
	n := newTestNet(t)
	before := n.state()
	lan, gw := startHelper(t, n.lan), startHelper(t, n.gw)
	lan.must(tunOrder{Do: "serve"})
	o := gatewayOrder(t, 1)
	o.Stock = true
	gw.must(o)
	gw.reaches("1")
	for _, to := range []netip.AddrPort{lan4, lan6} {
		gw.must(tunOrder{Do: "dial", ID: "1", To: netip.AddrPortFrom(to.Addr(), echoPort)})
	}
	gw.must(tunOrder{Do: "close", ID: "1"})
	n.expectState("after the Gateway's Close", before)
	expectNoRecord(t, o)
}

// Without masquerade a device keeps its address, and the LAN needs a route back.
func TestTUNRoutes(t *testing.T) {
	n := newTestNet(t)
	n.run("ip", "-n", n.lan, "route", "add", "10.101.0.0/16", "via", "192.0.2.1")
	lan, gw := startHelper(t, n.lan), startHelper(t, n.gw)
	lan.must(tunOrder{Do: "serve"})
	o := gatewayOrder(t, 1)
	o.Config.Masquerade, o.Config.Name = nil, "wg.7"
	gw.must(o)
	if got := gw.must(tunOrder{Do: "dial", ID: "1", To: lan4}).Text; !strings.HasPrefix(got, "from 10.101.7.9 ") {
		t.Errorf("server saw %q, want the device's own address", got)
	}
	if got := n.in("nft", "list", "tables"); got != "table inet gatemesh-wg.7" {
		t.Errorf("tables %q", got)
	}
}

func TestTUNForwardingWasOn(t *testing.T) {
	n := newTestNet(t)
	n.set("net.ipv4.ip_forward", "1")
	n.set("net.ipv6.conf.all.forwarding", "1")
	before := n.state()
	gw := startHelper(t, n.gw)
	gw.must(gatewayOrder(t, 1))
	gw.must(tunOrder{Do: "close", ID: "1"})
	n.expectState("after Close", before)
	n.expectForwarding("after Close", "1", "1")
}

func TestTUNKilled(t *testing.T) {
	n := newTestNet(t)
	before := n.state()
	lan, gw := startHelper(t, n.lan), startHelper(t, n.gw)
	lan.must(tunOrder{Do: "serve"})
	o := gatewayOrder(t, 1)
	gw.must(o)
	gw.kill()
	n.expectForwarding("after kill -9", "1", "1")
	if n.in("nft", "list", "tables") == "" {
		t.Error("after kill -9: no table left, so there is nothing to test")
	}

	// Opened with less, and under another name: the rest must be undone at open.
	four := o
	four.Config.Addresses, four.Config.Masquerade, four.Config.Name = o.Config.Addresses[:1], o.Config.Masquerade[:1], "gm"
	gw = startHelper(t, n.gw)
	gw.must(four)
	n.expectForwarding("opened for IPv4 only after kill -9", "1", "0")
	if got := n.in("nft", "list", "tables"); got != "table inet gatemesh-gm" {
		t.Errorf("tables after kill -9 and open: %q", got)
	}
	if got := gw.must(tunOrder{Do: "dial", ID: "1", To: lan4}).Text; !strings.HasPrefix(got, "from 192.0.2.1 ") {
		t.Errorf("server saw %q", got)
	}
	gw.must(tunOrder{Do: "close", ID: "1"})
	n.expectState("after Close", before)
	expectNoRecord(t, o)
}

// A record of another boot or namespace changes nothing here.
func TestTUNForeignRecord(t *testing.T) {
	n := newTestNet(t)
	n.set("net.ipv4.ip_forward", "1")
	gw := startHelper(t, n.gw)
	for name, record := range map[string]string{
		"boot":      `{"boot":"x","namespace":"cookie 1","interface":"gatemesh0","changes":["net/ipv4/ip_forward=0,1"]}`,
		"torn":      `{"boot":`,
		"malicious": `{"boot":"x","namespace":"x","interface":"../x","changes":["kernel/panic=0,1"]}`,
	} {
		o := gatewayOrder(t, 1)
		if err := os.WriteFile(filepath.Join(o.Config.StateDir, recordName), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		gw.must(o)
		gw.must(tunOrder{Do: "close", ID: "1"})
		if v4, _ := n.forwarding(); v4 != "1" {
			t.Errorf("%s: forwarding switched off", name)
		}
		expectNoRecord(t, o)
	}
	if !strings.Contains(gw.stderr.String(), "unreadable") {
		t.Error("nothing was logged of a torn record")
	}
}

// One namespace, several gateways: forwarding stays on until the last is gone,
// whichever that is and whoever was killed before.
func TestTUNNeighbours(t *testing.T) {
	for _, test := range []struct {
		name   string
		script string // a gateway's number: open it; -: close it; x: kill it
	}{
		{"first leaves first", "1 2 1- 2-"},
		{"last leaves first", "1 2 2- 1-"},
		{"first is killed and comes back", "1 2 1x 1 1- 2-"},
		{"first is killed and comes back last", "1 2 1x 1 2- 1-"},
		{"first is killed for good", "1 2 1x 2-"},
		{"second came after a kill", "1 1x 2 1 1- 2-"},
		{"third came after a kill", "1 1x 2 1 3 1- 3- 2-"},
		{"killed one took the other's name", "1 1x 2 1 2- 1-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newTestNet(t)
			n.set("net.ipv4.conf.all.accept_redirects", "0")
			before := n.state()
			lan := startHelper(t, n.lan)
			lan.must(tunOrder{Do: "serve"})
			orders := map[string]tunOrder{"1": gatewayOrder(t, 1), "2": gatewayOrder(t, 2), "3": gatewayOrder(t, 3)}
			running := make(map[string]*tunProcess)
			for _, step := range strings.Fields(test.script) {
				id, deed := step[:1], step[1:]
				switch deed {
				case "":
					running[id] = startHelper(t, n.gw)
					running[id].must(orders[id])
				case "-":
					running[id].must(tunOrder{Do: "close", ID: id})
					expectNoRecord(t, orders[id])
					delete(running, id)
				case "x":
					running[id].kill()
					delete(running, id)
				}
				for id, h := range running {
					h.reaches(id)
				}
			}
			// A killed gateway's own table waits for its next start.
			if test.name == "first is killed for good" {
				n.in("nft", "delete", "table", "inet", "gatemesh0")
			}
			n.expectState("after the last is gone", before)
		})
	}
}

// What others do to the host meanwhile is not undone, nor in the way.
func TestTUNMeddling(t *testing.T) {
	n := newTestNet(t)
	gw := startHelper(t, n.gw)
	o := gatewayOrder(t, 1)
	gw.must(o)
	n.in("nft", "flush", "ruleset")
	n.in("nft", "add", "table", "inet", "theirs")
	n.set("net.ipv4.ip_forward", "0")
	n.set("net.ipv4.conf.g0.forwarding", "1")
	gw.must(tunOrder{Do: "close", ID: "1"})
	if got := n.in("nft", "list", "tables"); got != "table inet theirs" {
		t.Errorf("tables %q", got)
	}
	if got := n.in("cat", "/proc/sys/net/ipv4/conf/g0/forwarding"); got != "1" {
		t.Error("a setting of others was undone")
	}
	n.expectForwarding("after Close", "0", "0")
	expectNoRecord(t, o)
}

// Another gateway that is frozen with the lock does not keep Close from undoing what this one did.
func TestTUNClosesWithoutTheLock(t *testing.T) {
	n := newTestNet(t)
	before := n.state()
	gw := startHelper(t, n.gw)
	o := gatewayOrder(t, 1)
	gw.must(o)
	if a := gw.do(tunOrder{Do: "close locked", ID: "1"}); !strings.Contains(a.Error, "another gateway holds it") {
		t.Errorf("Close says %q", a.Error)
	}
	n.expectState("after Close without the lock", before)
	expectNoRecord(t, o)
}

// A host that has its IPv6 route from router advertisements keeps it, and hears the next.
func TestTUNKeepsRouterAdvertisements(t *testing.T) {
	n := newTestNet(t)
	n.set("net.ipv6.conf.g0.accept_ra", "1")
	lan, gw := startHelper(t, n.lan), startHelper(t, n.gw)
	route := func() string { return n.in("ip", "-6", "route", "show", "default") }
	advertise := func(when string) {
		t.Helper()
		var a tunAnswer
		for range 100 {
			a = lan.do(tunOrder{Do: "advertise"}) // fails until the cable is up
			if strings.Contains(route(), "via fe80::2 dev g0 proto ra") {
				return
			}
		}
		t.Errorf("%s: router advertisements are not heard %s", when, a.Error)
	}
	advertise("before")
	before := n.state()
	gw.must(gatewayOrder(t, 1))
	if !strings.Contains(route(), "via fe80::2 dev g0 proto ra") {
		t.Errorf("default route lost: %q", route())
	}
	n.in("ip", "-6", "route", "del", "default")
	advertise("while forwarding")
	gw.must(tunOrder{Do: "close", ID: "1"})
	expiry := regexp.MustCompile(`expires \d+sec`)
	if diff := cmp.Diff(expiry.ReplaceAllString(before, ""), expiry.ReplaceAllString(n.state(), "")); diff != "" {
		t.Errorf("after Close: host differs from before:\n%s", diff)
	}
}

func TestTUNWithoutIPv6(t *testing.T) {
	n := newTestNet(t)
	n.set("net.ipv6.conf.all.disable_ipv6", "1")
	n.set("net.ipv6.conf.default.disable_ipv6", "1")
	before := n.state()
	lan, gw := startHelper(t, n.lan), startHelper(t, n.gw)
	lan.must(tunOrder{Do: "serve"})
	gw.must(gatewayOrder(t, 1))
	n.expectForwarding("IPv6 disabled", "1", "0")
	if got := gw.must(tunOrder{Do: "dial", ID: "1", To: lan4}).Text; !strings.HasPrefix(got, "from 192.0.2.1 ") {
		t.Errorf("server saw %q", got)
	}
	if !strings.Contains(gw.stderr.String(), "IPv6 is disabled") {
		t.Error("no warning that devices get no IPv6")
	}
	gw.must(tunOrder{Do: "close", ID: "1"})
	n.expectState("after Close", before)
}

// Where OpenTUN fails, it says why and leaves the host as it was.
func TestTUNErrors(t *testing.T) {
	n := newTestNet(t)
	n.in("ip", "tuntap", "add", "taken", "mode", "tap")
	before := n.state()
	nobody := []string{"setpriv", "--reuid=65534", "--inh-caps=+net_admin", "--ambient-caps=+net_admin"}
	inShell := func(before string) []string { return []string{"sh", "-c", before + ` && exec "$0" "$@"`} }
	for _, test := range []struct {
		name         string
		prefix       []string
		change       func(*TUNConfig)
		want         string
		noPermission bool
		unsupported  bool
	}{
		{
			name:         "no capability",
			prefix:       []string{"setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"},
			want:         "CAP_NET_ADMIN",
			noPermission: true,
		},
		{
			name:         "no device",
			prefix:       inShell("mount -t tmpfs none /dev/net"),
			want:         "/dev/net/tun",
			noPermission: true,
		},
		{
			name:         "device closed to us",
			prefix:       append(inShell("mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200"), nobody...),
			want:         "/dev/net/tun",
			noPermission: true,
		},
		{
			name:         "read-only settings",
			prefix:       inShell("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"),
			want:         "or set net.ipv4.ip_forward and",
			noPermission: true,
		},
		{
			name:         "nft may not",
			prefix:       inShell(`mount -t tmpfs none /mnt && printf '#!/bin/sh\necho "Operation not permitted (you must be root)" >&2; exit 1' >/mnt/nft && chmod 755 /mnt/nft && export PATH=/mnt`),
			want:         "you must be root",
			noPermission: true,
		},
		{
			name:   "state directory closed to us",
			prefix: nobody,
			change: func(c *TUNConfig) { c.StateDir = "/root" },
			want:   "record changes to the host",
		},
		{
			name:        "no nft",
			prefix:      inShell("export PATH=/nowhere"),
			want:        "no program nft in PATH (install nftables",
			unsupported: true,
		},
		{
			name:   "name taken",
			change: func(c *TUNConfig) { c.Name = "taken" },
			want:   "create interface taken",
		},
		{
			name:   "no state directory",
			change: func(c *TUNConfig) { c.StateDir = "/nowhere" },
			want:   "record changes to the host",
		},
		{
			name:   "address given twice",
			change: func(c *TUNConfig) { c.Addresses = slices.Concat(c.Addresses, c.Addresses[:1]) },
			want:   "add address 10.101.0.1/16 to gatemesh0",
		},
		{
			name:   "config",
			change: func(c *TUNConfig) { c.MTU = 100 },
			want:   "MTU 100",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			prefix := test.prefix
			if prefix != nil { // a /tmp and mounts of its own
				prefix = append([]string{"unshare", "-m"}, prefix...)
			}
			h := startHelper(t, n.gw, prefix...)
			o := gatewayOrder(t, 1)
			if test.change != nil {
				test.change(&o.Config)
			}
			a := h.do(o)
			if !strings.Contains(a.Error, test.want) || a.NoPermission != test.noPermission || a.Unsupported != test.unsupported {
				t.Errorf("got %+v, want an error that contains %q, no permission %v, unsupported %v", a, test.want, test.noPermission, test.unsupported)
			}
			if strings.Contains(a.Error, "\n") {
				t.Errorf("error of several lines: %q", a.Error)
			}
			n.expectState("after the error", before)
			if test.change == nil {
				expectNoRecord(t, o)
			}
		})
	}
}

// No root but CAP_NET_ADMIN, as a service manager gives it, is enough.
func TestTUNWithoutRoot(t *testing.T) {
	n := newTestNet(t)
	before := n.state()
	o := gatewayOrder(t, 1)
	dir, err := os.MkdirTemp("", "gatemesh")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	o.Config.StateDir = dir
	lan := startHelper(t, n.lan)
	gw := startHelper(t, n.gw, "setpriv", "--reuid=65534", "--inh-caps=+net_admin", "--ambient-caps=+net_admin")
	lan.must(tunOrder{Do: "serve"})
	gw.must(o)
	gw.reaches("1")
	gw.must(tunOrder{Do: "close", ID: "1"})
	n.expectState("after Close", before)
	expectNoRecord(t, o)
}

// OpenTUN works in the thread's namespace; Close ends its goroutines although
// nobody takes events.
func TestTUNLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: needs root to make network namespaces")
	}
	ignore := goleak.IgnoreCurrent()
	runtime.LockOSThread() // for ever: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tun, err := OpenTUN(gatewayOrder(t, 1).Config)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // each is an event
		if err := netlink.LinkSetMTU(tun.link, 1400+i); err != nil {
			t.Fatal(err)
		}
	}
	if err := tun.Close(); err != nil {
		t.Error(err)
	}
	for range tun.Events() { // is closed
	}
	if _, err := tun.Read([][]byte{make([]byte, 1<<16)}, []int{0}, 0); err == nil {
		t.Error("Read after Close: no error")
	}
	if err := goleak.Find(ignore); err != nil {
		t.Error(err)
	}
}

func TestOverlappingRoutes(t *testing.T) {
	n := newTestNet(t)
	for _, route := range []string{
		"default via 192.0.2.2",
		"0.0.0.0/1 via 192.0.2.2",
		"100.100.0.0/16 via 192.0.2.2",
		"100.64.7.0/24 via 192.0.2.2 table 52",
		"blackhole 100.65.0.0/16",
		"198.51.100.0/24 via 192.0.2.2",
		"10.0.0.0/8 via 192.0.2.2",
		"default via 2001:db8::2",
		"fd00:1::/64 via 2001:db8::2",
	} {
		n.in("ip", append([]string{"route", "add"}, strings.Fields(route)...)...)
	}
	n.in("ip", "address", "add", "100.70.0.1/32", "dev", "lo")
	gw := startHelper(t, n.gw)
	for prefix, want := range map[string][]string{
		"100.64.0.0/10":   {"100.64.7.0/24 via 192.0.2.2 dev g0 table 52", "100.65.0.0/16 type 6", "100.100.0.0/16 via 192.0.2.2 dev g0", "own address 100.70.0.1 dev lo"},
		"10.9.0.0/16":     {"10.0.0.0/8 via 192.0.2.2 dev g0"},
		"192.0.2.0/25":    {"192.0.2.0/24 dev g0"},
		"172.16.0.0/12":   nil,
		"fd00:1::/48":     {"fd00:1::/64 via 2001:db8::2 dev g0"},
		"fd00:2::/48":     nil,
		"2001:db8::/32":   {"2001:db8::/64 dev g0"},
		"203.0.113.0/24":  nil,
		"255.255.255.0/8": {},
	} {
		p := netip.MustParsePrefix(prefix)
		got := gw.must(tunOrder{Do: "overlap", Prefix: p}).Routes
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s overlaps %q, want %q", prefix, got, want)
		}
	}
}
