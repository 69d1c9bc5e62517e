package node

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ClaimCode is what a gateway shows to its administrator, who gives it to a member of another cluster: with it that
// one takes the gateway over. It is 100 random bits; a code of one's own choice cannot be set.
type ClaimCode string // codeLen characters of base32

// ErrCode is returned for a text that is not a claim code.
var ErrCode = errors.New("not a claim code")

const (
	codePrefix = "gmc1-"
	codeLen    = 20 // of 5 bits
	codeSumLen = 4

	// claimFile holds the code. Without it the gateway cannot be claimed.
	claimFile = "claim-code"
	// maxCodeFile bounds what is read of it, in bytes.
	maxCodeFile = 256
)

// NewClaimCode draws a code.
func NewClaimCode() ClaimCode {
	var b [(codeLen*5 + 7) / 8]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails
	return ClaimCode(keyText.EncodeToString(b[:])[:codeLen])
}

// String returns the code as people copy it: gmc1-, then six groups of four, the last of which is a checksum.
func (c ClaimCode) String() string {
	text := string(c) + c.sum()
	var groups []string
	for ; text != ""; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return codePrefix + strings.Join(groups, "-")
}

// ParseClaimCode reads what [ClaimCode.String] wrote. White space, upper case and the dashes between the groups are
// forgiven, a wrong letter is not.
func ParseClaimCode(s string) (ClaimCode, error) {
	if len(s) > maxCodeFile {
		return "", ErrCode
	}
	text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), codePrefix)
	text = strings.NewReplacer("-", "", " ", "").Replace(text)
	if _, err := keyText.DecodeString(text); !ok || err != nil || len(text) != codeLen+codeSumLen {
		return "", ErrCode
	}
	if c := ClaimCode(text[:codeLen]); text[codeLen:] == c.sum() {
		return c, nil
	}
	return "", ErrCode
}

// sum guards against typing errors, not against anybody.
func (c ClaimCode) sum() string {
	h := sha256.Sum256([]byte("gatemesh claim code sum 1" + string(c)))
	return keyText.EncodeToString(h[:])[:codeSumLen]
}

// secret is what is proven.
func (c ClaimCode) secret() [32]byte {
	return sha256.Sum256([]byte("gatemesh claim code 1" + string(c)))
}

// readClaimCode returns the code that a data directory holds; "" is none.
func readClaimCode(dir string) (ClaimCode, error) {
	b, err := os.ReadFile(filepath.Join(dir, claimFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read claim code: %w", err)
	}
	c, err := ParseClaimCode(string(b))
	if err != nil {
		return "", hintf("`gatemesh claim-code --renew` makes another", "%s does not hold a claim code",
			filepath.Join(dir, claimFile))
	}
	return c, nil
}

// renewClaimCode draws a code and keeps it in a data directory.
func renewClaimCode(dir string) (ClaimCode, error) {
	c := NewClaimCode()
	if err := WriteFile(filepath.Join(dir, claimFile), []byte(c.String()+"\n")); err != nil {
		return "", fmt.Errorf("keep claim code: %w", err)
	}
	return c, nil
}
