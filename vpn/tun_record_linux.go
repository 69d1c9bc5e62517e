package vpn

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	recordName  = "tun.json"
	recordLimit = 1 << 20 // bytes; a change takes less than 128
	aliasPrefix = "gatemesh"
	aliasLimit  = 255              // bytes; the kernel's IFALIASZ less the closing zero
	lockTimeout = 30 * time.Second // another gateway holds the lock for some 50 ms, unless it is frozen
)

// namespace is the network namespace of the calling thread, locked against other
// gateways that open or close there. The lock is on the namespace itself, so it
// holds across containers and users, and ends with its process.
type namespace struct {
	file *os.File
	id   string // of the namespace, never used again before the next boot
	boot string // of the kernel
}

// lockNamespace waits as long for another gateway.
func lockNamespace(timeout time.Duration) (_ *namespace, err error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	for deadline := time.Now().Add(timeout); ; time.Sleep(5 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return nil, fmt.Errorf("lock network namespace: another gateway holds it: %w", err)
		}
	}
	ns := &namespace{file: f}
	if ns.boot, err = readSysctl("kernel/random/boot_id"); err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	if ns.id, err = namespaceID(f); err != nil {
		return nil, fmt.Errorf("identify network namespace: %w", err)
	}
	return ns, nil
}

func (ns *namespace) unlock() { ns.file.Close() }

// namespaceID returns the namespace's cookie, before Linux 5.14 its inode number.
func namespaceID(f *os.File) (string, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(s)
	if cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return "cookie " + strconv.FormatUint(cookie, 10), nil
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return "", err
	}
	return "inode " + strconv.FormatUint(stat.Ino, 10), nil
}

// hostRecord is what a gateway has changed on the host, or is about to.
type hostRecord struct {
	Boot      string         `json:"boot"`
	Namespace string         `json:"namespace"`
	Interface string         `json:"interface"`
	Changes   []sysctlChange `json:"changes"`
}

// write replaces the record in dir. It need not outlive the kernel, whose settings
// do not either: nothing is synced.
func (r hostRecord) write(dir string) (err error) {
	if dir == "" {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("record changes to the host: %w", err)
		}
	}()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, recordName+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // is gone after the rename
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, recordName))
}

// readRecord returns the record in dir; ok is false if there is none.
func readRecord(dir string) (r hostRecord, ok bool, err error) {
	if dir == "" {
		return r, false, nil
	}
	path := filepath.Join(dir, recordName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if info.Size() > recordLimit {
		return r, false, fmt.Errorf("%s: larger than %d bytes", path, recordLimit)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return r, false, err
	}
	if r, err = decodeRecord(b); err != nil {
		return r, false, fmt.Errorf("%s: %w", path, err)
	}
	return r, true, nil
}

func decodeRecord(b []byte) (r hostRecord, err error) {
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if len(r.Interface) > 15 || !validName.MatchString(r.Interface) || strings.Contains(r.Interface, "%") {
		return r, fmt.Errorf("invalid interface name %.40q", r.Interface)
	}
	return r, nil
}

func removeRecord(dir string) error {
	if dir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(dir, recordName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of changes: %w", err)
	}
	return nil
}

// undoLeftovers takes back what the gateway of dir left in this namespace when it
// was killed; the kernel removed its interface itself. It returns what must wait
// because others run here. A record that cannot be read keeps no gateway down.
func undoLeftovers(dir string, ns *namespace, others []neighbour, log *slog.Logger) ([]sysctlChange, error) {
	r, ok, err := readRecord(dir)
	if err != nil {
		log.Warn("record of changes to the host is unreadable: if a gateway was killed, forwarding stays on", "error", err)
	}
	if !ok || r.Boot != ns.boot || r.Namespace != ns.id {
		return nil, nil
	}
	if !slices.ContainsFunc(others, func(n neighbour) bool { return n.link.Attrs().Name == r.Interface }) { // which has a table of that name
		nat, err := newNAT(r.Interface)
		if err != nil {
			return nil, err
		}
		if err := nat.remove(); err != nil {
			return nil, err
		}
	}
	if len(others) > 0 {
		return r.Changes, nil
	}
	if err := revertChanges(r.Changes); err != nil {
		return nil, err
	}
	return nil, removeRecord(dir)
}

// neighbour is the interface of a gateway in this namespace and what is known
// there of changes to undo, as its alias says:
//
//	gatemesh net/ipv4/ip_forward=0,1 net/ipv6/conf/all/forwarding=0,1
type neighbour struct {
	link    netlink.Link
	changes []sysctlChange
}

// neighbours lists the gateways of this namespace, the caller's own included.
func neighbours() ([]neighbour, error) {
	links, err := dumpAll(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var all []neighbour
	for _, l := range links {
		if changes, ok := parseAlias(l.Attrs().Alias); ok {
			all = append(all, neighbour{l, changes})
		}
	}
	return all, nil
}

// setAlias writes down changes for others to read.
func setAlias(link netlink.Link, changes []sysctlChange) error {
	if err := netlink.LinkSetAlias(link, formatAlias(changes)); err != nil {
		return fmt.Errorf("set alias of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// formatAlias leaves out what does not fit, which are the last.
func formatAlias(changes []sysctlChange) string {
	alias := aliasPrefix
	for _, c := range changes {
		text, _ := c.MarshalText() // returns no error
		if len(alias)+1+len(text) <= aliasLimit {
			alias += " " + string(text)
		}
	}
	return alias
}

// parseAlias reports whether the alias is a gateway's; what it cannot read is left out.
func parseAlias(alias string) (changes []sysctlChange, ok bool) {
	words := strings.Fields(alias)
	if len(words) == 0 || words[0] != aliasPrefix {
		return nil, false
	}
	for _, w := range words[1:] {
		var c sysctlChange
		if c.UnmarshalText([]byte(w)) == nil {
			changes = append(changes, c)
		}
	}
	return changes, true
}
