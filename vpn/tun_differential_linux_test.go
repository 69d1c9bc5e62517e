package vpn

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// The kernel is in the middle, and the judge. What is written to one interface it forwards to another one, which is
// changed between the runs:
//
//	packets ─► our queue       ─► kernel ─► an interface without offloads: the kernel splits, makes checksums
//	packets ─► the module's    ─► kernel ─► the same
//	super-packets of a queue ─► kernel ─► our queue, splitter      ─► packets
//	                                  └─► the module's Read         ─► packets
//	                                  └─► one without offloads       ─► packets

// differential is a network namespace of the test's own thread.
type differential struct {
	t     *testing.T
	plain *os.File // interface "plain": each packet for itself, no header before it
}

func newDifferential(t *testing.T) *differential {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED without root: that our way through the TUN equals the module's")
	}
	runtime.LockOSThread() // for good: the thread ends with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("NOT TESTED without a network namespace: that our way through the TUN equals the module's: %v", err)
	}
	d := &differential{t: t}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		d.must(writeSysctl(name, "1"))
	}
	for _, name := range []string{"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv6/conf/default/accept_dad"} {
		d.must(writeSysctl(name, "0"))
	}
	d.must(writeSysctl("net/ipv6/conf/default/addr_gen_mode", "1")) // no solicitations among the packets
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	d.must(err)
	d.must(attachQueue(fd, "plain", unix.IFF_TUN|unix.IFF_NO_PI))
	d.plain = os.NewFile(uintptr(fd), cloneDevice)
	t.Cleanup(func() { d.plain.Close() })
	d.up("plain")
	return d
}

func (d *differential) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *differential) up(name string) {
	d.t.Helper()
	link, err := netlink.LinkByName(name)
	d.must(err)
	d.must(netlink.LinkSetMTU(link, 1500))
	d.must(netlink.LinkSetTxQLen(link, 10000))
	d.must(netlink.LinkSetUp(link))
}

// route sends what comes in out by an interface.
func (d *differential) route(name string) {
	d.t.Helper()
	link, err := netlink.LinkByName(name)
	d.must(err)
	for _, to := range []string{"10.2.0.0/24", "fd02::/64"} {
		p := netip.MustParsePrefix(to)
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		d.must(netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}))
	}
}

// ours opens an interface as a Gateway does.
func (d *differential) ours(name string) ([]superQueue, bool) {
	d.t.Helper()
	device, queues, err := createTUN(name, 1500)
	d.must(err)
	t := &TUN{Device: device, queues: queues}
	d.t.Cleanup(func() { d.must(queues.close()) })
	d.device(name, device)
	opened, udp := t.superQueues(2)
	if len(opened) == 0 {
		d.t.Fatal("no queues")
	}
	return opened, udp
}

func (d *differential) modules(name string) tun.Device {
	d.t.Helper()
	device, err := tun.CreateTUN(name, 1500)
	d.must(err)
	d.device(name, device)
	return device
}

// device sets an interface up and closes it at the end.
func (d *differential) device(name string, device tun.Device) {
	d.t.Helper()
	ended := make(chan struct{})
	go func() { // else its goroutines would wait for ever
		defer close(ended)
		for range device.Events() {
		}
	}()
	d.t.Cleanup(func() {
		d.must(device.Close())
		<-ended
	})
	d.up(name)
}

// last is a packet that ends a run.
func last() shape { return shape{protocol: protocolUDP, flow: 99, ttl: 64, payload: 3} }

// collect reads packets until the last one is among them, and then until read has none if it drains.
func (d *differential) collect(drains bool, read func() ([][]byte, error)) (packets [][]byte) {
	d.t.Helper()
	mark := last().build()
	seen := false
	for waited := 0; waited < 10000; {
		some, err := read()
		d.must(err)
		for _, p := range some {
			_, src, _, ok := parseIP(p)
			switch {
			case !ok || src != netip.MustParseAddr("10.1.0.9") && src != netip.MustParseAddr("fd01::9"): // the kernel's own
			case len(p) == len(mark) && bytes.Equal(p[12:], mark[12:]):
				seen = true
			default:
				packets = append(packets, bytes.Clone(p))
			}
		}
		if seen && (!drains || len(some) == 0) {
			return packets
		}
		if len(some) == 0 {
			waited++
			time.Sleep(time.Millisecond)
		}
	}
	d.t.Fatalf("last packet did not come, after %d", len(packets))
	return nil
}

func (d *differential) fromPlain() func() ([][]byte, error) {
	b := make([]byte, 1<<16)
	return func() ([][]byte, error) {
		n, err := nonblocking(d.plain, b)
		if n == 0 || err != nil {
			return nil, err
		}
		return [][]byte{b[:n]}, nil
	}
}

// nonblocking reads a packet if there is one.
func nonblocking(f *os.File, b []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) }); e != nil {
		return 0, e
	}
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	return max(n, 0), err
}

// streams are the cases: each is the packets of one run.
func streams() map[string][]shape {
	all := make(map[string][]shape)
	stream := func(name string, n int, change func(i int, s *shape)) {
		for _, six := range []bool{false, true} {
			for _, protocol := range []byte{protocolTCP, protocolUDP} {
				s := shape{six: six, protocol: protocol, ttl: 64, fragment: 0x4000, flags: tcpACK, window: 700, seq: 1<<32 - 3000, id: 1<<16 - 3, payload: 1000}
				var shapes []shape
				for i := range n {
					x := s
					if change != nil {
						change(i, &x)
					}
					shapes = append(shapes, x)
					s.seq += uint32(x.payload)
					s.id++
				}
				all[fmt.Sprintf("%s/%s/%d", name, map[bool]string{false: "IPv4", true: "IPv6"}[six], protocol)] = shapes
			}
		}
	}
	stream("one", 1, nil)
	stream("many", 150, nil)
	stream("small", 200, func(_ int, s *shape) { s.payload = 9 })
	stream("short last", 10, func(i int, s *shape) { s.payload -= 100 * (i / 9) })
	stream("short in the middle", 10, func(i int, s *shape) { s.payload -= i % 5 })
	stream("push", 20, func(i int, s *shape) { s.flags |= tcpPSH * byte(i%7/6) })
	stream("FIN", 20, func(i int, s *shape) { s.flags |= tcpFIN * byte(i/19) })
	stream("URG", 20, func(i int, s *shape) { s.flags |= 0x20 * byte(i%3/2); s.urgent = uint16(i % 3) })
	stream("ECN echo", 20, func(_ int, s *shape) { s.flags |= tcpECE; s.tos = 2 })
	stream("window reduced", 20, func(i int, s *shape) { s.flags |= tcpCWR * byte(i%4/3) })
	stream("congestion experienced", 20, func(i int, s *shape) { s.tos = 2 + byte(i%5/4) })
	stream("TTL", 20, func(i int, s *shape) { s.ttl -= byte(i / 10) })
	stream("flow label", 20, func(i int, s *shape) { s.flowLabel = byte(i / 10) })
	stream("options of TCP", 20, func(i int, s *shape) { s.tcpOptions = 1 + byte(i/10) })
	stream("options of IP", 20, func(i int, s *shape) { s.options = i % 3 / 2 })
	stream("fragments", 20, func(i int, s *shape) {
		if i%4 == 3 {
			s.fragment = 0x2000
		}
	})
	stream("no DF", 20, func(i int, s *shape) { s.fragment = 0; s.id += uint16(i / 10 * 5) })
	stream("no checksum", 20, func(i int, s *shape) { s.noChecksum = i%4 == 3 })
	stream("reordered", 20, func(i int, s *shape) {
		if i%6 == 5 {
			s.seq += 5000
		}
	})
	stream("empty", 20, func(i int, s *shape) {
		if i%4 == 3 {
			s.payload = 0
		}
	})
	return all
}

// What we write to the kernel is for it what the module would have written packet by packet. (In one batch it merges
// across a few of these differences: in the urgent pointer, the flow label, the numbering, the window, and its packets
// overtake those of their flow that it cannot merge.)
func TestWritesEqualTheModules(t *testing.T) {
	d := newDifferential(t)
	queues, udp := d.ours("ours")
	module := d.modules("module")
	d.route("plain")
	w := newSuperWriter(queues, 1, udp)
	for name, shapes := range streams() {
		var mine, theirs [][]byte
		for _, s := range append(shapes, last()) {
			p := append(make([]byte, headerSize), s.build()...)
			mine, theirs = append(mine, p), append(theirs, bytes.Clone(p))
		}
		d.must(w.write(mine))
		got := d.collect(true, d.fromPlain())
		for _, p := range theirs {
			_, err := module.Write([][]byte{p}, headerSize)
			d.must(err)
		}
		want := d.collect(true, d.fromPlain())
		d.compare(name, got, want)
		if len(got) != len(shapes) {
			t.Errorf("%s: %d packets of %d came through", name, len(got), len(shapes))
		}
	}
}

// What the kernel gives us is for a device what the module would have made of it, and the kernel itself.
func TestReadsEqualTheModules(t *testing.T) {
	d := newDifferential(t)
	queues, _ := d.ours("ours")
	module := d.modules("module")
	source, udp := d.ours("source")
	w := newSuperWriter(source, 0, udp)
	supers := 0
	read := func() (packets [][]byte, err error) {
		for _, q := range queues {
			b := make([]byte, vnetSize+1<<16)
			n, err := q.read(b, false)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				continue
			}
			some, err := splitAll(b[:n])
			if err != nil {
				return nil, err
			}
			if len(some) > 1 {
				supers++
			}
			packets = append(packets, some...)
		}
		return packets, nil
	}
	buffers, sizes := makeBuffers(module.BatchSize()), make([]int, module.BatchSize())
	readModule := func() (packets [][]byte, err error) {
		n, err := module.Read(buffers, sizes, headerSize) // blocks, but never after the last packet
		for i := range n {
			packets = append(packets, buffers[i][headerSize:headerSize+sizes[i]])
		}
		return packets, err
	}
	for name, shapes := range streams() {
		send := func(to string) {
			d.route(to)
			var packets [][]byte
			for _, s := range append(shapes, last()) {
				packets = append(packets, append(make([]byte, headerSize), s.build()...))
			}
			d.must(w.write(packets))
		}
		send("ours")
		got := d.collect(true, read)
		send("module")
		d.compare(name+" against the module", got, d.collect(false, readModule))
		send("plain")
		d.compare(name+" against the kernel", got, d.collect(true, d.fromPlain()))
	}
	if supers < 100 {
		t.Errorf("only %d super-packets came, so little was tested", supers)
	}
}

func (d *differential) compare(name string, got, want [][]byte) {
	d.t.Helper()
	if len(got) != len(want) {
		d.t.Errorf("%s: %d packets, want %d", name, len(got), len(want))
		return
	}
	byFlow := func(packets [][]byte) map[string][][]byte {
		flows := make(map[string][][]byte)
		for _, p := range packets {
			f := flowOf(p)
			if p[0]>>4 == 4 && p[6]&0x3f != 0 {
				f += " fragments" // which the kernel may put into another queue
			}
			flows[f] = append(flows[f], p)
		}
		return flows
	}
	a, b := byFlow(got), byFlow(want)
	for f := range b {
		for i := range b[f] {
			if i >= len(a[f]) || !bytes.Equal(a[f][i], b[f][i]) {
				d.t.Errorf("%s, packet %d of %d:\ngot  %.120x\nwant %.120x", name, i, len(b[f]), a[f][i], b[f][i])
				return
			}
		}
	}
}
