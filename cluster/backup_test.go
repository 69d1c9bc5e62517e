package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

func backupOf(t testing.TB, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	made, err := s.Backup(&b, Backup{Cluster: [16]byte{7}, Made: time.Unix(1e9, 0).UTC(), Version: "v1"})
	check(t, err)
	read, err := ReadBackup(bytes.NewReader(b.Bytes()), nil)
	check(t, err)
	if read != made {
		t.Fatalf("read %+v, made %+v", read, made)
	}
	return b.Bytes()
}

// TestBackup restores into an empty store, with more than one part.
func TestBackup(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/16")
	for i := range 20 {
		add(t, s, "device-"+string(rune('a'+i)), testKey(i))
	}
	check(t, s.RemoveDevice(t.Context(), testKey(3)))
	big := map[string][]byte{}
	for _, name := range []string{"one", "two"} {
		big[name] = make([]byte, MaxValue)
		for i := range big[name] {
			big[name][i] = byte(rand.Uint())
		}
		check(t, s.SetSettings(t.Context(), big))
	}
	check(t, s.SaveClocks(t.Context(), map[Key][12]byte{testKey(1): {1}}))
	b := backupOf(t, s)
	to := replica(t, 1)
	got, err := to.Restore(t.Context(), bytes.NewReader(b))
	check(t, err)
	if got.Devices != 19 || got.Cluster != [16]byte{7} {
		t.Errorf("restored %+v", got)
	}
	if !bytes.Equal(s.Digest(), to.Digest()) {
		t.Error("the states differ")
	}
	sound(t, to)
	if c, err := to.Clock(testKey(1)); err != nil || c != [12]byte{} {
		t.Errorf("the clock of one disk came along: %v %v", c, err)
	}
}

// TestRestoreOld merges an old backup into a store that went on.
func TestRestoreOld(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/16")
	for i, name := range []string{"kept", "deleted", "collected", "renamed"} {
		add(t, s, name, testKey(i))
	}
	old := backupOf(t, s)
	check(t, s.RemoveDevice(t.Context(), testKey(1)))
	check(t, s.RemoveDevice(t.Context(), testKey(2)))
	check(t, s.RenameDevice(t.Context(), testKey(3), "newname"))
	add(t, s, "new", testKey(4))
	check(t, s.db.Update(func(txn *badger.Txn) error { return txn.Delete(entityKey(deviceRef(testKey(2)))) }))
	before := s.Digest()
	_, err := s.Restore(t.Context(), bytes.NewReader(old))
	check(t, err)
	var got []string
	for d, err := range s.Devices() {
		check(t, err)
		got = append(got, d.Name)
	}
	if strings.Join(got, " ") != "kept new newname" {
		t.Errorf("devices after an old backup: %s", got)
	}
	if !bytes.Equal(before, s.Digest()) {
		t.Error("an old backup changed the state")
	}
}

// TestRestoreLost brings back what nobody has any more, and offers it to the others.
func TestRestoreLost(t *testing.T) {
	a := withPool(t, replica(t, 0), "10.0.0.0/16")
	b := replica(t, 1)
	converge(t, a, b)
	add(t, a, "lost", testKey(0))
	backup := backupOf(t, a)
	_, err := b.Restore(t.Context(), bytes.NewReader(backup))
	check(t, err)
	same(t, a, b)
	select {
	case <-b.Changed():
	default:
		t.Error("a restore is not pushed")
	}
}

// TestBadBackup damages a backup everywhere: no byte may go unnoticed.
func TestBadBackup(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/16")
	add(t, s, "laptop", testKey(0))
	good := backupOf(t, s)
	refused := func(b []byte, what string) *BackupError {
		t.Helper()
		_, err := ReadBackup(bytes.NewReader(b), nil)
		var bad *BackupError
		if !errors.As(err, &bad) {
			t.Fatalf("%s: %v", what, err)
		}
		return bad
	}
	for i := range good {
		if e := refused(good[:i], "cut"); e.Reason != "is cut short" || e.Offset > int64(i) {
			t.Fatalf("cut at %d: %v", i, e)
		}
		b := bytes.Clone(good)
		b[i] ^= 0x10
		refused(b, "flipped")
	}
	refused(append(bytes.Clone(good), 0), "longer")
	newer := bytes.Clone(good)
	at := bytes.Index(newer, []byte{0xa4, 1, backupFormat, 2})
	newer[at+2] = backupFormat + 1
	if e := refused(newer, "newer"); !e.Newer || e.Error() != "backup has format 2, this version knows formats up to 1, at byte 16" {
		t.Errorf("newer format: %+v", e)
	}
	cut := errors.New("unplugged")
	if _, err := ReadBackup(io.MultiReader(bytes.NewReader(good[:40]), failing{cut}), nil); !errors.Is(err, cut) {
		t.Errorf("an error of the reader became %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestRestoreEnds ends a restore by its context.
func TestRestoreEnds(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/16")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	if _, err := s.Restore(ctx, bytes.NewReader(backupOf(t, s))); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("restore with a context that is done: %v", err)
	}
}

func FuzzReadBackup(f *testing.F) {
	s, stop := start(f, Config{Node: testNode(0)})
	add(f, withPool(f, s, "10.0.0.0/16"), "laptop", testKey(0))
	good := backupOf(f, s)
	stop()
	f.Add(good)
	f.Add(good[:len(good)-20])
	f.Add([]byte(backupMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, err := ReadBackup(bytes.NewReader(b), func(part []byte) error {
			n += len(part)
			_, err := decodePart(part)
			return err
		})
		var bad *BackupError
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("unknown kind of error: %v", err)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of parts from %d", n, len(b))
		}
	})
}
