package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
)

// ledger is what is known of the orders: what the servers have, and what was said of them on the way there.
type ledger struct {
	w *wire

	mu      sync.Mutex
	seen    census
	lives   int
	healed  bool
	met     map[uint64]int     // How often the stage has met an order.
	left    map[uint64]bool    // It may have left its line, because of the stage, the sink, or a letter.
	unsure  map[wireLife]bool  // It may be stored; nobody has said yet.
	buried  map[wireLife]bool  // A letter about it was acknowledged.
	letters []lying            // What the dead-letter topic has.
	rows    []wireRow          // What the table has, in the order of arrival.
	stored  map[uint64]bool    // Orders with a row,
	owners  map[wireLife]bool  // and those stored in place.
	written []map[int][]string // The letters of a call that was acknowledged, by partition.
}

// wireLife is an order in the hands of one claim.
type wireLife struct {
	id   uint64
	life string
}

// wireRow is an order as it is stored.
type wireRow struct {
	ID   uint64 `ch:"id"`
	Life uint64 `ch:"life"`
	Home int64  `ch:"home"` // Where its letter lay, if it has come home; 0 if it is stored in place.
	Code string `ch:"code"` // The column takes no more than two bytes.
}

// lying is a letter where it lies.
type lying struct {
	dlq.Letter
	partition int
	offset    int64
}

func isSkipped(id uint64) bool { return id%19 == 7 }
func isBad(id uint64) bool     { return id%11 == 3 }
func isTooLong(id uint64) bool { return id%13 == 5 }

func orderOf(m *holdfast.Message) uint64 { return uint64(m.Partition*wireMessages) + uint64(m.Offset) }

func wireLifeOf(m *holdfast.Message) wireLife { return wireLife{orderOf(m), lifeNumber(m)} }

func (l lying) name() string {
	return fmt.Sprint(wireLifeOf(&l.Message), l.Redrives, l.Reason)
}

func rowOf(m *holdfast.Message, id uint64) wireRow {
	row := wireRow{ID: id, Code: "ok"}
	row.Life, _ = strconv.ParseUint(lifeNumber(m), 10, 64)
	if m.Letter != nil {
		row.Home = homeOf(m.Letter.Partition, m.Letter.Offset)
	}
	if isTooLong(id) {
		row.Code = "long"
	}
	return row
}

func homeOf(partition int, offset int64) int64 { return int64(partition)<<32 + offset + 1 }

func newLedger(w *wire, seen census) *ledger {
	return &ledger{
		w: w, seen: seen, met: make(map[uint64]int), left: make(map[uint64]bool), unsure: make(map[wireLife]bool),
		buried: make(map[wireLife]bool), stored: make(map[uint64]bool), owners: make(map[wireLife]bool),
	}
}

func (l *ledger) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.healed = true
}

// happened counts an event.
func (l *ledger) happened(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[event]++
}

func (l *ledger) newLife() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives++
	return l.lives
}

// meet says what becomes of an order in the stage, nothing for good.
func (l *ledger) meet(m *holdfast.Message, id uint64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.met[id]++
	mishap := ""
	if n := l.w.dice.of("stage", id, l.met[id]).IntN(12 * len(stageMishaps())); n < len(stageMishaps()) && !l.healed {
		mishap = stageMishaps()[n]
		l.seen[mishap]++
		l.w.note("order %d: %s", id, mishap)
	}
	switch mishap {
	case "the stage fails", "the stage asks for time", "the stage panics", "the stage times out":
		l.left[id] = true
	case "the stage does not know whether it has worked":
		l.unsure[wireLifeOf(m)] = m.Letter == nil // A letter may come home while its message is still here.
	case "", "the stage fails for good":
		l.left[id] = l.left[id] || mishap != ""
		delete(l.unsure, wireLifeOf(m)) // Its last word.
	}
	return mishap
}

// refresh looks at what the servers have. The lock is held.
func (l *ledger) refresh() {
	ids, lives, homes := l.w.ch.Values("orders", "id"), l.w.ch.Values("orders", "life"), l.w.ch.Values("orders", "home")
	for i := len(l.rows); i < min(len(ids), len(lives), len(homes)); i++ {
		row := wireRow{ID: ids[i].(uint64), Life: lives[i].(uint64), Home: homes[i].(int64)}
		l.rows = append(l.rows, row)
		l.stored[row.ID] = true
		if row.Home == 0 {
			l.owners[wireLife{row.ID, strconv.FormatUint(row.Life, 10)}] = true
		}
	}
	end := int64(0)
	for _, n := range l.w.kafka.Ends("orders.dlq") {
		end += n
	}
	if int(end) == len(l.letters) {
		return
	}
	records, err := l.w.kafka.Messages(context.Background(), "orders.dlq")
	if err != nil {
		l.w.t.Error(err)
		return
	}
	l.letters = l.letters[:0]
	for _, r := range records {
		letter, err := dlq.Decode(r)
		if err != nil {
			l.w.t.Errorf("the dead-letter topic has at %d/%d: %v", r.Partition, r.Offset, err)
		}
		l.letters = append(l.letters, lying{letter, r.Partition, r.Offset})
	}
}

// ended tells whether an order is skipped, stored, or dead-lettered for good. The lock is held.
func (l *ledger) ended(id uint64) bool {
	return isSkipped(id) || l.stored[id] ||
		slices.ContainsFunc(l.letters, func(x lying) bool { return orderOf(&x.Message) == id && x.Reason != dlq.CircuitOpen })
}

// settled checks a commit of the group, or of the letters, as it is sent.
func (l *ledger) settled(topic string, partition int, next int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh()
	ahead := func(what any) {
		l.w.ahead++
		l.w.t.Errorf("%s/%d is committed up to %d, and %v is not settled", topic, partition, next, what)
	}
	if topic == "orders" {
		for o := range uint64(next) {
			id := uint64(partition)*wireMessages + o
			if !l.ended(id) && !slices.ContainsFunc(l.letters, func(x lying) bool { return orderOf(&x.Message) == id }) {
				ahead(fmt.Sprint("order ", id))
			}
		}
		return
	}
	for _, x := range l.letters {
		if id := orderOf(&x.Message); x.partition == partition && x.offset < next && !l.ended(id) {
			ahead(fmt.Sprintf("the letter at %d, of order %d,", x.offset, id))
		}
	}
}

// missing are the orders that are nowhere.
func (l *ledger) missing() (ids []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh()
	for id := range uint64(simPartitions * wireMessages) {
		if !l.ended(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// check looks at what the servers have in the end.
func (l *ledger) check() {
	for _, id := range l.missing() {
		l.w.lost++
		l.w.t.Errorf("order %d is lost", id)
	}
	l.checkCommits()
	l.checkOnce()
	l.checkOrder()
	l.checkLetters()
}

// checkCommits: what the brokers have taken never went back.
func (l *ledger) checkCommits() {
	last := make(map[string]int64)
	for _, c := range l.w.kafka.Commits() {
		at := fmt.Sprint(c.Group, " ", c.Topic, "/", c.Partition)
		if c.Code != 0 {
			continue
		}
		if c.Offset < last[at] {
			l.w.ahead++
			l.w.t.Errorf("%s is committed back from %d to %d by %s in generation %d", at, last[at], c.Offset, c.Member, c.Generation)
		}
		last[at] = c.Offset
	}
}

// checkOnce: what one claim has settled in one way it has not settled in another, nor has it stored it twice, as the
// server recognises a batch that is written again as it was.
func (l *ledger) checkOnce() {
	seen := make(map[wireLife]bool)
	for _, row := range l.rows {
		if row.Home != 0 {
			continue
		}
		life := wireLife{row.ID, strconv.FormatUint(row.Life, 10)}
		if seen[life] {
			l.w.t.Errorf("order %d is stored twice by claim %s", life.id, life.life)
		}
		seen[life] = true
		if l.buried[life] {
			l.w.t.Errorf("order %d is stored by claim %s, which had a letter about it acknowledged", life.id, life.life)
		}
	}
}

// checkOrder: in the table, no order is overtaken by a later one of its line. A claim may store again what an earlier one
// has stored: what counts is when an order came first. What has come home is in a line of its own, that of its letters.
func (l *ledger) checkOrder() {
	order := l.w.plan.pipeline.Order
	if order == pipeline.Unordered {
		return
	}
	here := make(map[string]bool)   // What has come already, by line.
	last := make(map[string]uint64) // The last of its line that has come.
	come := func(line string, at, id uint64, mayLag bool) {
		if order == pipeline.ByKey {
			line += fmt.Sprint(" key ", id%wireMessages%5)
		}
		this := fmt.Sprint(line, " ", at)
		if here[this] {
			return
		}
		here[this] = true
		if at < last[line] && !mayLag {
			l.w.disordered++
			l.w.t.Errorf("order %d is stored behind a later one of %s", id, line)
		}
		last[line] = max(last[line], at)
	}
	for _, row := range l.rows {
		if row.Home != 0 {
			come(fmt.Sprint("letters of ", row.Home>>32), uint64(row.Home), row.ID, l.left[row.ID])
			continue
		}
		come(fmt.Sprint("claim ", row.Life), row.ID+1, row.ID, false)
		come(fmt.Sprint("partition ", row.ID/wireMessages), row.ID+1, row.ID, l.left[row.ID])
	}
}

// checkLetters: the letters of a call lie in the order in which they were given, see dlq.Topic.
func (l *ledger) checkLetters() {
	for _, call := range l.written {
		for partition, names := range call {
			rest := names
			for _, x := range l.letters {
				if x.partition == partition && len(rest) > 0 && x.name() == rest[0] {
					rest = rest[1:]
				}
			}
			if len(rest) > 0 {
				l.w.disordered++
				l.w.t.Errorf("letters %v were acknowledged together, and do not lie in this order", names)
			}
		}
	}
}

// wireSink notes what the Inserter says of the orders.
type wireSink struct {
	*clickhousex.Inserter[wireRow]
	w *wire
}

func (s wireSink) Write(ctx context.Context, b holdfast.Batch[wireRow]) error {
	err := s.Inserter.Write(ctx, b)
	s.w.note("sink: %d items of %v: %v", len(b.Items), b.Spans, err)
	l := s.w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for event, sign := range map[string]string{"there is no such table": "code: 60,", "access is denied": "code: 497,"} {
		if err != nil && strings.Contains(err.Error(), sign) {
			l.seen[event]++
		}
	}
	partly, ok := errors.AsType[*holdfast.BatchError](err)
	for i, item := range b.Items {
		why := err
		if ok && !holdfast.IsAmbiguous(err) {
			why = partly.Items[i]
		}
		if holdfast.IsPermanent(why) {
			l.left[item.Value.ID] = true
		}
		switch life := wireLifeOf(item.Source); {
		case item.Source.Letter != nil:
		case holdfast.IsAmbiguous(why):
			l.unsure[life] = true
		case why == nil || holdfast.IsPermanent(why):
			delete(l.unsure, life)
		}
	}
	return err
}

// deadTopic has a name of its own, since a field named Topic would hide the method.
type deadTopic = dlq.Topic

// wireLetters checks letters before they are written, and notes what the dead-letter topic has acknowledged.
type wireLetters struct {
	w *wire
	*deadTopic
}

func (d wireLetters) Write(ctx context.Context, letters ...dlq.Letter) error {
	d.w.examine(letters)
	err := d.deadTopic.Write(ctx, letters...)
	d.w.note("letters: %d: %v", len(letters), err)
	partly, ok := errors.AsType[*holdfast.BatchError](err)
	l := d.w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	call := make(map[int][]string)
	for i := range letters {
		if err != nil && (!ok || partly.Items[i] != nil) {
			continue
		}
		if letters[i].Redrives == 0 {
			l.buried[wireLifeOf(&letters[i].Message)] = true
		}
		partition := letters[i].Message.Partition % 2
		call[partition] = append(call[partition], lying{Letter: letters[i]}.name())
	}
	l.written = append(l.written, call)
	return err
}

// examine checks letters that are to be written: none is about what may be stored, or was to wait.
func (l *ledger) examine(letters []dlq.Letter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh()
	last := make(map[string]int64) // By claim.
	for i := range letters {
		letter := &letters[i]
		life := wireLifeOf(&letter.Message)
		refuse := func(bad bool, why string) {
			if bad {
				l.w.t.Errorf("order %d of claim %s %s, and has a letter: %s, %s", life.id, life.life, why, letter.Reason, letter.Error)
			}
		}
		refuse(letter.Redrives == 0 && l.owners[life], "is stored")
		refuse(letter.Redrives == 0 && l.unsure[life], "may be stored")
		why := unfit(*letter, l.w.plan.pipeline)
		refuse(why != "", why)
		refuse(isBad(life.id) && letter.Reason != dlq.Permanent && letter.Reason != dlq.CircuitOpen, "is bad")
		if letter.Redrives == 0 { // From home, they come in the order in which their letters lay.
			refuse(letter.Message.Offset < last[life.life], "comes after a later one")
			last[life.life] = letter.Message.Offset
		}
		l.left[life.id] = true
	}
}
