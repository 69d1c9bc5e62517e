package cluster

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers decide on.
var (
	// ErrNotFound says that there is no such device, gateway or admission.
	ErrNotFound = errors.New("not found")
	// ErrPoolFull says that every address of the pool is taken.
	ErrPoolFull = errors.New("address pool is full")
	// ErrNoPool says that the settings "pool" and "ula" are missing or no prefixes.
	ErrNoPool = errors.New("cluster has no address pool")
	// ErrInvalidKey says that bytes or text are no usable WireGuard public key.
	ErrInvalidKey = errors.New("invalid public key")
	// ErrInvalidPart says that a digest or a part of a delta is malformed. Nothing of it was merged.
	ErrInvalidPart = errors.New("invalid replication data")
	// ErrInvalidStatement says that an admission statement is malformed, of another cluster or not signed.
	ErrInvalidStatement = errors.New("invalid admission statement")
	// ErrTooLarge says that a value or a transaction is beyond its limit.
	ErrTooLarge = errors.New("too large")
	// ErrReadOnly says that nothing is written. See [ReadOnlyError] and [SealedError].
	ErrReadOnly = errors.New("store is read-only")
	// ErrEvicted says that a gateway was evicted: its key is never admitted again.
	ErrEvicted = errors.New("gateway was evicted")
	// ErrClosed says that the store was closed, or that its committer ended.
	ErrClosed = errors.New("store is closed")
)

// InUseError says that another process has the store open.
type InUseError struct {
	Dir string
	PID int // 0 if unknown
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("%s is in use by process %d", e.Dir, e.PID)
}

// ReadOnlyError says how much room there is on the disk, and how much is needed. It wraps ErrReadOnly.
type ReadOnlyError struct {
	Dir          string
	Free, Needed uint64 // bytes
}

func (e *ReadOnlyError) Error() string {
	return fmt.Sprintf("the disk is nearly full: %d MB free, %d MB needed", e.Free/1e6, (e.Needed+1e6-1)/1e6)
}

func (e *ReadOnlyError) Unwrap() error { return ErrReadOnly }

// Hint says what to do.
func (e *ReadOnlyError) Hint() string {
	return fmt.Sprintf("make room on the volume of %s; changes are taken again by themselves", e.Dir)
}

// DamageError says that a store cannot be opened: it is damaged, or its directory is not to be used. Nothing was
// changed.
type DamageError struct {
	Dir  string
	File string // in Dir; "" if unknown
	Err  error
}

func (e *DamageError) Error() string {
	why := strings.Join(strings.Fields(e.Err.Error()), " ") // Badger's have several lines
	if e.File == "" {
		return fmt.Sprintf("open store %s: %s", e.Dir, why)
	}
	return fmt.Sprintf("open store %s: file %s: %s", e.Dir, e.File, why)
}

func (e *DamageError) Unwrap() error { return e.Err }

// FormatError says that the store was written by a newer version.
type FormatError struct {
	Dir          string
	Found, Known uint64
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format %d, this version knows formats up to %d", e.Dir, e.Found, e.Known)
}

// ExistsError says that a name or a key is already in use.
type ExistsError struct {
	Field string // "name" or "key" of a device, or "user"
	Value string
	ID    string // of the device or user that has it
}

func (e *ExistsError) Error() string {
	switch e.Field {
	case "key":
		return fmt.Sprintf("device with key %s exists", e.Value)
	case "user":
		return fmt.Sprintf("user %q exists", e.Value)
	}
	return fmt.Sprintf("device %q exists", e.Value)
}

// NameError says that a name breaks the rule for names.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("name %q: 1 to %d letters, digits, '-', '_' or '.', the first and the last a letter or a digit", e.Name, MaxName)
}

// AmbiguousError says that several entities answer to a name.
type AmbiguousError struct {
	Name string
	IDs  []string // sorted; at most a handful
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is ambiguous: %s", e.Name, strings.Join(e.IDs, ", "))
}

// PoolError says why a prefix cannot be the address pool.
type PoolError struct {
	Pool   string
	Reason string
}

func (e *PoolError) Error() string {
	return fmt.Sprintf("address pool %s %s", e.Pool, e.Reason)
}

// LimitError says that a value is beyond its limit. It wraps ErrTooLarge.
type LimitError struct {
	What          string
	Got, Min, Max int // bytes, or a number of things
}

func (e *LimitError) Error() string {
	if e.Got < e.Min {
		return fmt.Sprintf("%s is %d, at least %d is needed", e.What, e.Got, e.Min)
	}
	return fmt.Sprintf("%s is %d, at most %d is allowed", e.What, e.Got, e.Max)
}

func (e *LimitError) Unwrap() error { return ErrTooLarge }

// checkLength returns a *LimitError if a text or a value has more bytes than it may.
func checkLength(what string, got, most int) error {
	if got > most {
		return &LimitError{What: "length of " + what, Got: got, Max: most}
	}
	return nil
}
