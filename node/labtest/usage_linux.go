package labtest

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Goroutines returns how many goroutines a process of the given Go program has, the runtime's own included. They are
// counted in the memory of the process, which is not asked and goes on meanwhile.
func (p *Process) Goroutines() (int, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("find program: %w", err)
	}
	places, err := placesOf(path)
	if err != nil {
		return 0, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("open memory: %w", err)
	}
	defer mem.Close()
	read := func(n int, at int64) []byte {
		b := make([]byte, n)
		if _, e := mem.ReadAt(b, at); e != nil {
			err = fmt.Errorf("read memory: %w", e)
		}
		return b
	}
	word := func(at int64) int64 { return int64(binary.NativeEndian.Uint64(read(8, at))) }
	all := read(8*int(word(places.allglen)), word(places.allgptr))
	live := 0
	for len(all) > 0 && err == nil {
		const dead, scan = 6, 0x1000 // runtime2.go: _Gdead, _Gscan
		if binary.NativeEndian.Uint32(read(4, int64(binary.NativeEndian.Uint64(all))+places.status))&^scan != dead {
			live++
		}
		all = all[8:]
	}
	return live, err
}

// places are where a program keeps what the runtime knows of its goroutines.
type places struct {
	allgptr, allglen int64 // addresses
	status           int64 // offset of a goroutine's state in its g
}

// known caches places by path.
var known sync.Map

func placesOf(path string) (places, error) {
	if p, ok := known.Load(path); ok {
		return p.(places), nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return places{}, fmt.Errorf("open program: %w", err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil || f.Type != elf.ET_EXEC {
		return places{}, fmt.Errorf("read symbols of a program of type %v: %w", f.Type, err)
	}
	p := places{status: -1}
	for _, s := range symbols {
		switch s.Name {
		case "runtime.allgptr":
			p.allgptr = int64(s.Value)
		case "runtime.allglen":
			p.allglen = int64(s.Value)
		}
	}
	if p.status, err = offset(f, "runtime.g", "atomicstatus"); err != nil {
		return places{}, err
	}
	if p.allgptr == 0 || p.allglen == 0 {
		return places{}, fmt.Errorf("%s has no list of goroutines", path)
	}
	known.Store(path, p)
	return p, nil
}

// offset is that of a field of a structure.
func offset(f *elf.File, structure, field string) (int64, error) {
	d, err := f.DWARF()
	if err != nil {
		return 0, fmt.Errorf("read types: %w", err)
	}
	r := d.Reader()
	for inside := false; ; {
		e, err := r.Next()
		if err != nil || e == nil {
			return 0, fmt.Errorf("no field %s.%s: %w", structure, field, err)
		}
		name, _ := e.Val(dwarf.AttrName).(string)
		switch {
		case e.Tag == dwarf.TagStructType:
			inside = name == structure
		case inside && e.Tag == dwarf.TagMember && name == field:
			at, _ := e.Val(dwarf.AttrDataMemberLoc).(int64)
			return at, nil
		}
	}
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
