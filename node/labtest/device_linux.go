package labtest

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// A Device is the stock client of go.mod inside this process, with a socket on
// a node and a tunnel that ends in memory: a client of which a lab can have
// hundreds. It pings by itself, and counts what comes out of the tunnel.
type Device struct {
	*Node
	Config Config

	dev *device.Device
	tun *memory

	mu      sync.Mutex // guards the fields below
	pinger  *Pinger    // nil: none
	sources map[netip.Addr]int
}

// Device makes a node on the internet with a stock client in it. It says
// nothing before [Device.Up].
func (l *Lab) Device(name string, conf Config) *Device {
	l.tb.Helper()
	if l.clients >= MaxClients {
		l.tb.Fatalf("a lab has room for %d clients", MaxClients)
	}
	node := l.Node(name, Internet, clientBase+l.clients)
	l.clients++
	return node.Device(conf)
}

// Device puts a stock client on the node, beside others perhaps.
func (n *Node) Device(conf Config) *Device {
	return &Device{Node: n, Config: conf, sources: make(map[netip.Addr]int)}
}

// Up starts the client. One with a keepalive knocks now. It may be called from
// any goroutine.
func (d *Device) Up() error {
	d.tun = newMemory(d.arrived)
	d.dev = device.NewDevice(d.tun, &bind{node: d.Node}, &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	text, err := d.Config.uapi()
	if err == nil {
		err = d.dev.IpcSet(text)
	}
	if err == nil {
		err = d.dev.Up()
	}
	if err != nil {
		d.dev.Close()
		return fmt.Errorf("%s: start device: %w", d.Name, err)
	}
	d.lab.tb.Cleanup(d.dev.Close)
	return nil
}

// Down ends the client: keys, sessions and socket are gone. It may come up
// again.
func (d *Device) Down() { d.dev.Close() }

// Roam gives the client another socket, at another port.
func (d *Device) Roam() error { return d.dev.IpcSet("listen_port=0\n") }

// Endpoint returns where the client sends to now.
func (d *Device) Endpoint() netip.AddrPort {
	text, err := d.dev.IpcGet()
	if err != nil {
		return netip.AddrPort{} // it is down
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "endpoint="); ok {
			addr, _ := netip.ParseAddrPort(value) // zero: none
			return addr
		}
	}
	return netip.AddrPort{}
}

// Received counts packets out of the tunnel by their inner source.
func (d *Device) Received(from netip.Addr) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sources[from]
}

// Send puts an IP packet into the tunnel.
func (d *Device) Send(packet []byte) { d.tun.inject(packet) }

// Inner is the client's IPv4 address in the tunnel.
func (d *Device) Inner() netip.Addr {
	for _, p := range d.Config.Addresses {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// arrived gets each packet out of the tunnel, which is its for the call only.
func (d *Device) arrived(packet []byte) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return
	}
	now := time.Now()
	d.mu.Lock()
	d.sources[netip.AddrFrom4([4]byte(packet[12:]))]++
	p := d.pinger
	d.mu.Unlock()
	if p != nil {
		p.arrived(packet, now)
	}
}

// uapi returns the configuration as a device takes it.
func (c Config) uapi() (string, error) {
	var b strings.Builder
	var failed error
	key := func(s string) string {
		k, err := base64.StdEncoding.DecodeString(s)
		if err == nil && len(k) != 32 {
			err = fmt.Errorf("key of %d bytes", len(k))
		}
		failed = errors.Join(failed, err)
		return hex.EncodeToString(k)
	}
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\nreplace_peers=true\n", key(c.PrivateKey), c.ListenPort)
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "public_key=%s\n", key(p.PublicKey))
		if p.PresharedKey != "" {
			fmt.Fprintf(&b, "preshared_key=%s\n", key(p.PresharedKey))
		}
		if p.Endpoint != "" {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%v\n", a)
		}
		b.WriteString("persistent_keepalive_interval=" + strconv.Itoa(p.Keepalive) + "\n")
	}
	return b.String(), failed
}

// memory is a TUN whose network is a function.
type memory struct {
	arrived func(packet []byte)
	packets chan []byte
	events  chan tun.Event
	closed  chan struct{}
	close   sync.Once
}

var _ tun.Device = (*memory)(nil)

const memoryQueue = 128 // packets; more are dropped

func newMemory(arrived func([]byte)) *memory {
	return &memory{
		arrived: arrived,
		packets: make(chan []byte, memoryQueue),
		events:  make(chan tun.Event, 1),
		closed:  make(chan struct{}),
	}
}

// inject never blocks.
func (m *memory) inject(packet []byte) {
	select {
	case m.packets <- packet:
	default:
	}
}

// Read implements tun.Device.
func (m *memory) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case packet := <-m.packets:
		sizes[0] = copy(bufs[0][offset:], packet)
		return 1, nil
	case <-m.closed:
		return 0, os.ErrClosed
	}
}

// Write implements tun.Device.
func (m *memory) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		m.arrived(b[offset:])
	}
	return len(bufs), nil
}

// Close implements tun.Device.
func (m *memory) Close() error {
	m.close.Do(func() {
		close(m.closed)
		close(m.events)
	})
	return nil
}

func (m *memory) File() *os.File           { return nil }
func (m *memory) MTU() (int, error)        { return 1420, nil }
func (m *memory) Name() (string, error)    { return "memory", nil }
func (m *memory) Events() <-chan tun.Event { return m.events }
func (m *memory) BatchSize() int           { return 1 }
