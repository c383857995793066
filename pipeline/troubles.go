package pipeline

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// troubles are the places where messages wait at the moment, or would, and who waits there.
type troubles struct {
	log    *slog.Logger
	teller *teller

	mu sync.Mutex
	at map[waiter]trouble
}

// waiter is somebody who waits at a place: a lane, a batch, or nil for whoever is there.
type waiter struct {
	place string
	who   any
}

type trouble struct {
	kind  string
	text  string // Of the error.
	since time.Time
}

func newTroubles(log *slog.Logger, teller *teller) *troubles {
	return &troubles{log: log, teller: teller, at: make(map[waiter]trouble)}
}

// set notes what who waits for at a place, and tells of it when nobody waits for that there already.
func (t *troubles) set(place string, who any, kind string, err error) {
	text := errorText(err)
	t.mu.Lock()
	known := false
	for w, at := range t.at {
		known = known || (w.place == place && at.kind == kind)
	}
	since := time.Now()
	if was, ok := t.at[waiter{place, who}]; ok {
		since = was.since
	}
	t.at[waiter{place, who}] = trouble{kind, text, since}
	if known {
		t.mu.Unlock()
		return
	}
	tell := t.teller.line() // In the order in which troubles come and go.
	t.mu.Unlock()
	t.log.Warn("pipeline is in trouble", slog.String("place", place), slog.String("why", kind), slog.String("err", text))
	tell(Event{Kind: Waiting, Place: place, Why: kind, Err: err})
}

// clear notes that who does not wait at a place any more, and tells of it when nobody does.
func (t *troubles) clear(place string, who any) {
	t.mu.Lock()
	if len(t.at) == 0 {
		t.mu.Unlock()
		return
	}
	was, known := t.at[waiter{place, who}]
	delete(t.at, waiter{place, who})
	for w := range t.at {
		known = known && w.place != place
	}
	if !known {
		t.mu.Unlock()
		return
	}
	tell := t.teller.line()
	t.mu.Unlock()
	t.log.Info("pipeline's trouble is over", slog.String("place", place), slog.String("why", was.kind), slog.Duration("lasted", time.Since(was.since)))
	tell(Event{Kind: Moving, Place: place, Why: was.kind})
}

// clearPlace forgets a claim's places when the claim is given up.
func (t *troubles) clearPlace(prefix string) {
	t.mu.Lock()
	var gone []waiter
	for w := range t.at {
		if strings.HasPrefix(w.place, prefix+" ") {
			gone = append(gone, w)
		}
	}
	t.mu.Unlock()
	for _, w := range gone {
		t.clear(w.place, w.who)
	}
}

// list has one trouble for each place, the one that began first.
func (t *troubles) list() []Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Trouble, 0, len(t.at))
	for w, at := range t.at {
		list = append(list, Trouble{Place: w.place, Why: at.kind + ": " + at.text, Since: at.since})
	}
	slices.SortFunc(list, func(a, b Trouble) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), a.Since.Compare(b.Since))
	})
	return slices.CompactFunc(list, func(a, b Trouble) bool { return a.Place == b.Place })
}
