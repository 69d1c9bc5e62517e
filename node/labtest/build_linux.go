package labtest

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Stock is a build of wireguard-go, the stock client.
type Stock string

// Stock builds.
const (
	Module Stock = "module" // of the version in go.mod
	Debian Stock = "debian" // of 2022, /usr/bin/wireguard-go
)

const debianPath = "/usr/bin/wireguard-go"

// ErrNoStock is returned by [Stock.Path] for a build this machine lacks.
var ErrNoStock = errors.New("no such wireguard-go here")

// Path returns the program, building it if need be.
func (s Stock) Path() (string, error) {
	switch s {
	case Module:
		return buildModule()
	case Debian:
		if _, err := os.Stat(debianPath); err != nil {
			return "", fmt.Errorf("%w: %w", ErrNoStock, err)
		}
		return debianPath, nil
	}
	return "", fmt.Errorf("%w: %q", ErrNoStock, string(s))
}

var buildModule = sync.OnceValues(func() (string, error) {
	return build("wireguard-go", "golang.zx2c4.com/wireguard")
})

var buildGatemesh = sync.OnceValues(func() (string, error) {
	if os.Getenv("GATEMESH_LAB_RACE") != "" {
		return build("gatemesh-race", "-race", ".")
	}
	return build("gatemesh", ".")
})

// buildNext pretends to be the version to come: it speaks one more version of the protocol, and knows a kind of data
// that ours does not.
var buildNext = sync.OnceValues(func() (string, error) {
	return build("gatemesh-next", "-tags", "nextversion", ".")
})

// build builds a package of the module graph, once in a process, into the
// user's cache, where the next run in this working tree finds it up to date.
func build(name string, args ...string) (string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	if err != nil || root == "." || root == "/dev" {
		return "", fmt.Errorf("find module root: not in a module (%v)", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	// Another working tree may be tested at the same time.
	dir := filepath.Join(cache, "gatemesh-lab", strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(root))), 36))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, name+".lock"))
	if err != nil {
		return "", fmt.Errorf("lock build: %w", err)
	}
	defer unlock()
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", append([]string{"build", "-o", path}, args...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// lock waits for an exclusive lock on a file. Other test processes build too.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
