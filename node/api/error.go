package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of refusal an [Error] is.
type Code string

// The codes that a caller may decide on.
const (
	Invalid     Code = "invalid"     // the request makes no sense as it is
	NotFound    Code = "not_found"   // nothing goes by that name
	Ambiguous   Code = "ambiguous"   // more than one thing does
	Exists      Code = "exists"      // the name or key is taken
	Unavailable Code = "unavailable" // not now
	Internal    Code = "internal"    // the gateway's own trouble
)

// Error is a refusal in words for people: one line of what went wrong, one of
// what to do.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Errorf builds an Error; hint may be empty.
func Errorf(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

var statusOf = map[Code]int{
	Invalid:     http.StatusBadRequest,
	NotFound:    http.StatusNotFound,
	Ambiguous:   http.StatusConflict,
	Exists:      http.StatusConflict,
	Unavailable: http.StatusServiceUnavailable,
	Internal:    http.StatusInternalServerError,
}

// asError turns any error into one that can be sent. One that knows a hint is of a state that will pass.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var passing interface {
		error
		Hint() string
	}
	if errors.As(err, &passing) {
		return Errorf(Unavailable, passing.Hint(), "%v", err)
	}
	return &Error{Code: Internal, Message: err.Error()}
}
