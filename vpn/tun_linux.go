package vpn

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// TUN is an interface of the kernel, which routes what the gateway writes to it:
//
//	device ─► Gateway ─► TUN ─► kernel: routes, nft ─► other interfaces ─► LAN
//	device ◄─ Gateway ◄─ TUN ◄─ kernel: un-NAT, routes ◄────────────────── LAN
//
// It is a tun.Device whose Write wants an offset of at least 10 bytes. OpenTUN
// switches forwarding on, and writes an nft table; Close takes both back.
//
// Gateways that share a network namespace are known to each other by their
// interfaces, whose alias holds what the first of them changed. So the last one
// to close, whichever it is, undoes it, and none pulls it from under another.
type TUN struct {
	tun.Device
	queues *tunQueues

	state     string        // directory of the record, or empty
	patience  time.Duration // of Close with the lock of the namespace
	link      netlink.Link
	announced bool           // record and aliases are written
	changes   []sysctlChange // what to revert, as far as known when this gateway opened
	nat       *nat           // its table may exist; nil: not

	events  chan tun.Event
	unwatch chan struct{}  // closed, it ends followLink; nil: that does not run
	g       errgroup.Group // forwardEvents, followLink

	closeOnce sync.Once
	closeErr  error
}

var _ tun.Device = (*TUN)(nil)

// OpenTUN creates the interface and everything it takes for devices to reach what
// the host reaches, after undoing what a killed gateway of the same StateDir left.
// It needs CAP_NET_ADMIN and the program nft of version 1.0.1 or later, and works
// in the network namespace of the calling thread. It takes some tens of milliseconds,
// up to 30 s where another gateway of the namespace is opening or closing.
//
// Errors wrap ErrNoPermission or ErrUnsupported where that is the reason; then,
// as with every other error, the host is as before.
func OpenTUN(c TUNConfig) (*TUN, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open TUN: %w", err)
	}
	t, err := openTUN(c)
	if err != nil {
		return nil, fmt.Errorf("open TUN: %w", explainPermission(err))
	}
	return t, nil
}

func openTUN(c TUNConfig) (_ *TUN, err error) {
	if err := checkPermission(); err != nil {
		return nil, err
	}
	ns, err := lockNamespace(lockTimeout)
	if err != nil {
		return nil, err
	}
	defer ns.unlock()
	others, err := neighbours()
	if err != nil {
		return nil, err
	}
	inherited, err := undoLeftovers(c.StateDir, ns, others, c.Log)
	if err != nil {
		return nil, fmt.Errorf("undo what a killed gateway left: %w", err)
	}
	device, queues, err := createTUN(c.Name, c.MTU)
	if err != nil {
		return nil, fmt.Errorf("create interface %s: %w", c.Name, err)
	}
	t := &TUN{Device: device, queues: queues, state: c.StateDir, patience: lockTimeout, events: make(chan tun.Event, 8)}
	t.g.Go(t.forwardEvents)
	if err := t.open(c, ns, others, inherited); err != nil {
		return nil, errors.Join(err, t.undo())
	}
	return t, nil
}

// open does everything that undo takes back.
func (t *TUN) open(c TUNConfig, ns *namespace, others []neighbour, inherited []sysctlChange) error {
	name, err := t.Name()
	if err != nil {
		return err
	}
	if t.link, err = netlink.LinkByName(name); err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if c.family(netip.Addr.Is6) && !ipv6Enabled(name) {
		c.Log.Warn("IPv6 is disabled on this host: devices get IPv4 only", "interface", name)
		c = c.withoutIPv6()
	}
	if err := t.watchLink(); err != nil {
		return err
	}
	nat, err := newNAT(name)
	if err != nil {
		return err
	}
	plan, err := planForwarding(c.family(netip.Addr.Is4), c.family(netip.Addr.Is6), name)
	if err != nil {
		return err
	}
	if err := t.announce(ns, others, mergeChanges(inherited, plan.undo)); err != nil {
		return err
	}
	if err := applyChanges(plan.set); err != nil {
		return err
	}
	if err := t.configure(c.Addresses); err != nil {
		return err
	}
	t.nat = nat
	return nat.install(c.Masquerade)
}

// announce writes down what must be undone, before it is done: in the record, for
// this gateway's next start, and in the aliases, for the last of this namespace.
func (t *TUN) announce(ns *namespace, others []neighbour, changes []sysctlChange) error {
	for _, n := range others {
		changes = mergeChanges(changes, n.changes)
	}
	r := hostRecord{Boot: ns.boot, Namespace: ns.id, Interface: t.link.Attrs().Name, Changes: changes}
	if err := r.write(t.state); err != nil {
		return err
	}
	t.changes, t.announced = changes, true
	for _, n := range append(others, neighbour{link: t.link}) {
		if err := setAlias(n.link, mergeChanges(n.changes, changes)); err != nil {
			return err
		}
	}
	return nil
}

// configure gives the interface its addresses and sets it up. It gets no
// link-local address: nobody would hear its solicitations.
func (t *TUN) configure(addresses []netip.Prefix) error {
	name := t.link.Attrs().Name
	_ = writeSysctl("net/ipv6/conf/"+name+"/addr_gen_mode", "1") // absent without IPv6; read-only in some containers: only noise then
	for _, p := range addresses {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(t.link, a); err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, name, err)
		}
	}
	if err := netlink.LinkSetUp(t.link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// Events returns the interface's events; those that nobody takes are dropped.
func (t *TUN) Events() <-chan tun.Event { return t.events }

// forwardEvents keeps the module's listeners from blocking, which would keep Close.
func (t *TUN) forwardEvents() error {
	for e := range t.Device.Events() {
		if e&(tun.EventUp|tun.EventDown) == 0 { // else see watchLink
			t.tell(e)
		}
	}
	return nil
}

// Close removes the nft table and the interface with its addresses and routes,
// and, if no other gateway of this network namespace is left, sets forwarding back
// to what it was. It may be called more than once and ends Read with an error. The
// interface goes down at once; where the lock of the namespace cannot be had in 30 s,
// the rest is undone without it, and the error says so. What it cannot undo stays recorded and is undone by the next OpenTUN.
func (t *TUN) Close() error {
	t.closeOnce.Do(func() {
		down := t.setDown()
		ns, err := lockNamespace(t.patience)
		if err == nil {
			defer ns.unlock()
		}
		if err := errors.Join(down, err, t.undo()); err != nil {
			t.closeErr = fmt.Errorf("close TUN: %w", err)
		}
	})
	return t.closeErr
}

// setDown ends the traffic at once, whoever holds the lock.
func (t *TUN) setDown() error {
	err := netlink.LinkSetDown(t.link)
	if err == nil || errors.Is(err, unix.ENODEV) { // taken away by somebody else: it is down
		return nil
	}
	return fmt.Errorf("set %s down: %w", t.link.Attrs().Name, err)
}

// undo takes back whatever openTUN did so far, last first.
func (t *TUN) undo() error {
	var errs []error
	if t.nat != nil {
		errs = append(errs, t.nat.remove())
	}
	gateways, err := neighbours()
	errs = append(errs, err, t.closeDevice())
	if !t.announced {
		return errors.Join(errs...)
	}
	others := 0
	for _, n := range gateways {
		if n.link.Attrs().Index == t.link.Attrs().Index {
			t.changes = mergeChanges(t.changes, n.changes)
		} else {
			others++
		}
	}
	if others == 0 && err == nil {
		errs = append(errs, revertChanges(t.changes))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return removeRecord(t.state)
}

func (t *TUN) closeDevice() error {
	err := errors.Join(t.queues.close(), t.Device.Close())
	if t.unwatch != nil {
		close(t.unwatch)
	}
	_ = t.g.Wait() // no error is returned
	close(t.events)
	return err
}

// checkPermission finds out what needs no change of the host to find out.
func checkPermission() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %w (kernel module tun not loaded, or device not given to this container)", ErrNoPermission, err)
	}
	if err != nil {
		return err
	}
	f.Close()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return fmt.Errorf("%w: process lacks CAP_NET_ADMIN", ErrNoPermission)
	}
	return nil
}

// explainPermission makes err wrap ErrNoPermission if the kernel refused; that the
// state directory is closed is another matter.
func explainPermission(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) && !strings.HasPrefix(file.Path, "/dev/") && !strings.HasPrefix(file.Path, "/proc/") {
		return err
	}
	refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) ||
		strings.Contains(err.Error(), "Operation not permitted") // nft's own words
	if refused && !errors.Is(err, ErrNoPermission) {
		return fmt.Errorf("%w: %w", ErrNoPermission, err)
	}
	return err
}
