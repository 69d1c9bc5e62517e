package labtest

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Goroutines returns the most goroutines, dead ones included, that a process
// of the given Go program ever had at once: the runtime uses dead ones again
// and frees none, so a number that no longer grows is one that does not leak.
// It is read from the memory of the process, which is not asked.
func (p *Process) Goroutines() (int, error) {
	exe := fmt.Sprintf("/proc/%d/exe", p.cmd.Process.Pid)
	path, err := os.Readlink(exe)
	if err != nil {
		return 0, fmt.Errorf("find program: %w", err)
	}
	at, err := allglen(path)
	if err != nil {
		return 0, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("open memory: %w", err)
	}
	defer mem.Close()
	var word [8]byte
	if _, err := mem.ReadAt(word[:], at); err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return int(binary.NativeEndian.Uint64(word[:])), nil
}

// allglens caches, by path, where programs keep runtime.allglen.
var allglens sync.Map

func allglen(path string) (int64, error) {
	if at, ok := allglens.Load(path); ok {
		return at.(int64), nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open program: %w", err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil || f.Type != elf.ET_EXEC {
		return 0, fmt.Errorf("read symbols of a program of type %v: %w", f.Type, err)
	}
	for _, s := range symbols {
		if s.Name == "runtime.allglen" {
			allglens.Store(path, int64(s.Value))
			return int64(s.Value), nil
		}
	}
	return 0, fmt.Errorf("%s has no runtime.allglen", path)
}

// Files counts the open files of a process; of one that has ended it is zero.
func (p *Process) Files() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(entries)
}

// Dropped counts the frames that the kernel has dropped since boot because too
// many were waiting for one of its processors. Every lab and every flood on the
// machine shares that queue: what is lost while it grows says nothing of a
// gateway.
func Dropped() (n uint64) {
	text, err := os.ReadFile("/proc/net/softnet_stat") // a line of hexadecimal fields for each processor
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 {
			dropped, _ := strconv.ParseUint(f[1], 16, 64)
			n += dropped
		}
	}
	return n
}
