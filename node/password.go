package node

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Passwords are kept as Argon2id in the text form of its reference implementation,
// $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH, with the parameters that RFC 9106 section 4 recommends second.
const (
	argonTime    = 3
	argonThreads = 4
	argonSalt    = 16 // bytes
	argonHash    = 32

	maxArgonTime   = 16
	maxArgonMemory = 256 << 10

	// hashesAtOnce bounds the memory that log-ons can take: each hash takes its own.
	hashesAtOnce = 2
)

var argonMemory uint32 = 64 << 10 // KiB; tests take less

var hashing = make(chan struct{}, hashesAtOnce)

// verifier is a parsed password.
type verifier struct {
	time, memory uint32
	threads      uint8
	salt, hash   []byte
}

// nobody is what the password of a user is compared with who does not exist: it takes the same time.
func nobody() verifier {
	return verifier{argonTime, argonMemory, argonThreads, make([]byte, argonSalt), nil}
}

// sum waits until there is room for one more and returns the hash of a password.
func (v verifier) sum(ctx context.Context, password string) ([]byte, error) {
	select {
	case hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-hashing }()
	return argon2.IDKey([]byte(password), v.salt, v.time, v.memory, v.threads, argonHash), nil
}

// is says whether a password is the one. It takes a tenth of a second or more.
func (v verifier) is(ctx context.Context, password string) (bool, error) {
	got, err := v.sum(ctx, password)
	return err == nil && len(v.hash) > 0 && subtle.ConstantTimeCompare(got, v.hash) == 1, err
}

// newVerifier returns the text that is kept of a password.
func newVerifier(ctx context.Context, password string) (string, error) {
	v := nobody()
	v.salt = make([]byte, argonSalt)
	rand.Read(v.salt) //nolint:errcheck // crypto/rand.Read never fails
	var err error
	v.hash, err = v.sum(ctx, password)
	return v.String(), err
}

func (v verifier) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, v.memory, v.time, v.threads, b64(v.salt),
		b64(v.hash))
}

// parseVerifier reads what String wrote; ok is false for what would take more memory or time than a password should.
func parseVerifier(s string) (v verifier, ok bool) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprint("v=", argon2.Version) {
		return v, false
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &v.memory, &v.time, &v.threads); err != nil || n != 3 {
		return v, false
	}
	var err1, err2 error
	v.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	v.hash, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	ok = err1 == nil && err2 == nil && len(v.salt) >= 8 && len(v.salt) <= 64 && len(v.hash) == argonHash &&
		v.time >= 1 && v.time <= maxArgonTime && v.memory >= 8 && v.memory <= maxArgonMemory && v.threads >= 1 &&
		v.String() == s
	return v, ok
}
