package fates_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/internal/fates"
)

func TestCheck(t *testing.T) {
	lost, unsure := errors.New("lost"), holdfast.Ambiguous(errors.New("unsure"))
	for name, test := range map[string]struct {
		said  []error // Of messages 0 and up, all of one key.
		often []int
		there []string
		fault string // Empty: none.
	}{
		"all well":              {said: []error{nil, lost, unsure, nil}, there: []string{"0", "2", "3"}},
		"unknown is not there":  {said: []error{nil, unsure}, there: []string{"0"}},
		"lost":                  {said: []error{nil, nil}, there: []string{"0"}, fault: "message 1 is acknowledged, and there 0 times"},
		"twice":                 {said: []error{nil}, there: []string{"0", "0"}, fault: "message 0 is acknowledged, and there 2 times"},
		"unknown twice":         {said: []error{unsure}, there: []string{"0", "0"}, fault: "message 0 is unknown, and there 2 times"},
		"there all the same":    {said: []error{lost}, there: []string{"0"}, fault: "message 0 is not written, and there 1 times"},
		"out of order":          {said: []error{nil, nil}, there: []string{"1", "0"}, fault: "message 0 lies behind 1"},
		"often":                 {said: []error{nil, nil}, often: []int{0, 1}, there: []string{"0", "1", "0", "1"}},
		"often, but not this":   {said: []error{nil, nil}, often: []int{0}, there: []string{"0", "1", "1"}, fault: "message 1 is acknowledged, and there 2 times"},
		"often, but lost":       {said: []error{nil}, often: []int{0}, fault: "message 0 is acknowledged, and there 0 times"},
		"a late one":            {said: []error{nil, nil}, often: []int{0}, there: []string{"0", "1", "0"}, fault: "the last ones are out of order"},
		"of somebody else":      {there: []string{"x"}, fault: "not a message of ours"},
		"nothing was said of 1": {said: []error{nil}, there: []string{"0"}, fault: "message 1 is unsettled"},
	} {
		t.Run(name, func(t *testing.T) {
			var book fates.Book
			made := len(test.said)
			if strings.Contains(test.fault, "unsettled") {
				made++
			}
			for range made {
				book.Message("orders", "k")
			}
			for id, err := range test.said {
				book.Settle(id, err)
			}
			for _, id := range test.often {
				book.Often(id)
			}
			var there []holdfast.Message
			for _, value := range test.there {
				there = append(there, holdfast.Message{Key: []byte("k"), Value: []byte(value)})
			}
			faults := book.Check(there)
			if test.fault == "" && len(faults) > 0 || test.fault != "" && !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, test.fault) }) {
				t.Errorf("got %q, want %q", faults, test.fault)
			}
		})
	}
	var book fates.Book
	book.Message("orders", "k")
	book.Settle(0, nil)
	book.Settle(0, lost)
	if faults := book.Check(nil); !strings.Contains(strings.Join(faults, " "), "settled twice") {
		t.Errorf("got %q", faults)
	}
}
