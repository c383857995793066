package dlq

import (
	"strings"

	"github.com/holdfast-io/holdfast"
)

const (
	arrivalsAtOnce = 200
	idSize         = 48 // What a letter's id takes, as a rule at the most.
)

// arrivals makes messages that come home with what they know of their stay. Of so many at once these share memory.
type arrivals struct {
	stays []holdfast.Letter // Free ones.
	ids   strings.Builder
}

// home makes m, the record, the letter's message.
func (a *arrivals) home(l *Letter, m *holdfast.Message) {
	if len(a.stays) == 0 {
		a.stays, a.ids = make([]holdfast.Letter, arrivalsAtOnce), strings.Builder{}
		a.ids.Grow(idSize * arrivalsAtOnce)
	}
	stay := &a.stays[0]
	a.stays = a.stays[1:]
	var id [2 * idSize]byte
	before := a.ids.Len()
	a.ids.Write(l.appendID(id[:0]))
	stay.ID = a.ids.String()[before:]
	stay.Reason = string(l.Reason)
	stay.Redrives = l.Redrives
	stay.FirstFailedAt = l.FirstFailedAt
	stay.Topic, stay.Partition, stay.Offset = m.Topic, m.Partition, m.Offset
	*m = l.Message
	m.Letter = stay
}
