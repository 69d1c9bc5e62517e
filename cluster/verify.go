package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	badgeroptions "github.com/dgraph-io/badger/v4/options"
	badgertable "github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// verify reads Badger's files before Badger does, which would panic at a damaged
// table in a goroutine of its own, and silently forget what follows a damaged
// entry of a log. It changes nothing. The caller has locked the directory. What it
// returns is a *DamageError.
func verify(dir string) error {
	if err := verifyFiles(dir); err != nil {
		return err
	}
	if err := verifyTables(dir); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return nil //nolint:nilerr // a directory with a strange name: Badger will see
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return &DamageError{Dir: dir, File: filepath.Base(path), Err: err}
		}
		if at, ok := verifyLog(b); !ok {
			return &DamageError{Dir: dir, File: filepath.Base(path), Err: fmt.Errorf("damaged at byte %d", at)}
		}
	}
	return nil
}

// verifyFiles refuses what Badger could not open for writing: of some files it would end the process.
func verifyFiles(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return &DamageError{Dir: dir, Err: err}
	}
	for _, file := range files {
		if file.Name() == "LOCK" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, file.Name()), os.O_RDWR, 0)
		if err != nil {
			return &DamageError{Dir: dir, File: file.Name(), Err: err}
		}
		_ = f.Close()
	}
	return nil
}

// verifyTables checks every block of the tables that the manifest names.
func verifyTables(dir string) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return verifyEmpty(dir)
	}
	if err != nil {
		return &DamageError{Dir: dir, File: badger.ManifestFilename, Err: err}
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err != nil {
		return &DamageError{Dir: dir, File: badger.ManifestFilename, Err: err}
	}
	if info, err := f.Stat(); err == nil && info.Size() > end {
		if file := orphan(dir, m); file != "" {
			err := fmt.Errorf("cut off at byte %d: it does not name %s, and what that has is nowhere else", end, file)
			return &DamageError{Dir: dir, File: badger.ManifestFilename, Err: err}
		}
	}
	for id, t := range m.Tables {
		if err := verifyTable(badgertable.NewFilename(id, dir), t.Compression); err != nil {
			return &DamageError{Dir: dir, File: badgertable.IDToFilename(id), Err: err}
		}
	}
	return nil
}

// verifyEmpty refuses a directory with tables but without a manifest: Badger would begin anew and remove them.
func verifyEmpty(dir string) error {
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	if len(tables) == 0 {
		return nil
	}
	err := fmt.Errorf("is missing, and there are %d tables that it should name", len(tables))
	return &DamageError{Dir: dir, File: badger.ManifestFilename, Err: err}
}

// orphan returns a table that the manifest does not name though no other file has its entries, "" if there is none.
// Versions only grow. So one that a crash left between its making and its naming goes no further than the tables that
// are named, of which it was made, or begins no earlier than a log, from which it was made.
func orphan(dir string, m badger.Manifest) string {
	var named uint64
	for id, t := range m.Tables {
		if v, err := lastVersion(badgertable.NewFilename(id, dir), t.Compression); err == nil {
			named = max(named, v)
		}
	}
	logged := firstLogged(dir)
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	for _, path := range tables {
		id, ok := badgertable.ParseFileID(path)
		if _, is := m.Tables[id]; !ok || is {
			continue
		}
		// One that cannot be opened was not finished.
		if v, err := lastVersion(path, badger.DefaultOptions(dir).Compression); err == nil && v > named && v < logged {
			return filepath.Base(path)
		}
	}
	return ""
}

// lastVersion returns the greatest version in a table.
func lastVersion(path string, c badgeroptions.CompressionType) (v uint64, err error) {
	err = withTable(path, c, func(t *badgertable.Table) error {
		v = t.MaxVersion()
		return nil
	})
	return v, err
}

// firstLogged returns the least version that a log begins with, the greatest number if there is no log.
func firstLogged(dir string) uint64 {
	first := uint64(math.MaxUint64)
	logs, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil || len(b) < logHeader {
			continue
		}
		if size, _, version := cutEntry(b[logHeader:]); size > 0 {
			first = min(first, version)
		}
	}
	return first
}

// verifyTable checks every block of a table.
func verifyTable(path string, c badgeroptions.CompressionType) error {
	return withTable(path, c, (*badgertable.Table).VerifyChecksum)
}

// withTable opens a table. Badger panics at some damage; its words go along.
func withTable(path string, c badgeroptions.CompressionType, fn func(*badgertable.Table) error) (err error) {
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close(-1)
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("damaged, or not whole")
		}
	}()
	t, err := badgertable.OpenTable(f, badgertable.Options{ReadOnly: true, BlockSize: 4 << 10, Compression: c})
	if err != nil {
		return err
	}
	return fn(t)
}

// Layout of a log of Badger: a header, then entries, then zeros.
//
//	entry   meta (1), user meta (1), lengths of key and value and the expiry (varints), key, value, CRC-32C (4)
//	key     … and the version, as its complement to 2^64-1 (8): one for all entries of a transaction
const (
	logHeader   = 20
	metaInTxn   = 1 << 6
	metaEndTxn  = 1 << 7
	maxLogEntry = 2 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// cutEntry reads the entry at the beginning of b and returns its length, 0 if there is none.
func cutEntry(b []byte) (size int, meta byte, version uint64) {
	n := 2
	if len(b) < n {
		return 0, 0, 0
	}
	var lengths [3]uint64 // of key and value, and the expiry
	for i := range lengths {
		v, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return 0, 0, 0
		}
		lengths[i], n = v, n+m
	}
	key, value := lengths[0], lengths[1]
	if key < 8 || key > 1<<16 || value > maxLogEntry || uint64(len(b)-n) < key+value+4 {
		return 0, 0, 0
	}
	end := n + int(key+value) //nolint:gosec // within b
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return 0, 0, 0
	}
	version = math.MaxUint64 - binary.BigEndian.Uint64(b[n+int(key)-8:]) //nolint:gosec // within b
	return end + 4, b[0], version
}

// verifyLog tells the end that a crash left, which is cut off, from damage, and returns where the readable entries
// end. A transaction is written only when the one before is on the disk. So beyond a place that cannot be read there
// may be entries of that transaction, but none of a later one.
func verifyLog(b []byte) (at int, ok bool) {
	at = logHeader
	var unsure uint64 // the transaction that may be cut off; 0: any one
	for at < len(b) {
		size, meta, version := cutEntry(b[at:])
		if size == 0 {
			break
		}
		if unsure = version; meta&metaEndTxn != 0 {
			unsure++
		}
		at += size
	}
	for next := at + 1; next < len(b); next++ {
		if b[next]&(metaInTxn|metaEndTxn) == 0 {
			continue
		}
		size, _, version := cutEntry(b[next:])
		if size == 0 {
			continue
		}
		if unsure == 0 {
			unsure = version
		}
		if version > unsure {
			return at, false
		}
	}
	return at, true
}
