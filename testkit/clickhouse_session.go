package testkit

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// errChCut ends a session without an answer.
var errChCut = errors.New("connection cut")

// chSession is one client's connection.
type chSession struct {
	server   *ClickHouseServer
	run      *chRun
	conn     net.Conn
	in       *chReader
	out      *chWriter
	database string
}

func newChSession(s *ClickHouseServer, run *chRun, conn net.Conn) *chSession {
	return &chSession{server: s, run: run, conn: conn, in: newChReader(conn), out: &chWriter{}}
}

// serve answers the client until one of the two goes away. What a client sends that is no protocol ends its connection,
// as it does on a real server.
func (c *chSession) serve() {
	hit := c.server.arrived()
	if hit != nil && hit.Reject {
		if tcp, ok := c.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // The client sees a reset.
		}
		return
	}
	if err := c.handshake(hit); err != nil {
		return
	}
	for {
		code, err := c.in.UVarInt()
		if err != nil {
			return
		}
		switch proto.ClientCode(code) {
		case proto.ClientCodePing:
			err = c.struck(c.server.strike(ClickHousePing, ""), func() error {
				c.out.PutByte(byte(proto.ServerCodePong))
				return nil
			})
		case proto.ClientCodeQuery:
			err = c.query()
		default: // A cancel: what it cancels is done already, and the client hangs up.
			return
		}
		if err != nil || c.flush() != nil {
			return
		}
	}
}

func (c *chSession) flush() error {
	_, err := c.conn.Write(c.out.Buf)
	c.out.Reset()
	return err
}

// struck carries out what a client asked for, as the fault has it: do appends the answer. An error that is a *chError is
// told to the client, any other ends the connection.
func (c *chSession) struck(hit *chArmed, do func() error) error {
	err := c.spoil(hit, do)
	if told, ok := errors.AsType[*chError](err); ok {
		c.out.Reset()
		c.out.exception(told)
		return nil
	}
	return err
}

func (c *chSession) spoil(hit *chArmed, do func() error) error {
	switch {
	case hit == nil:
		return do()
	case hit.Code != 0:
		return hit.exception()
	case hit.Cut:
		return errChCut
	case hit.Hang:
		if err := c.wait(hit.removed); err != nil {
			return err
		}
		return do()
	case hit.Delay > 0:
		timer := time.NewTimer(hit.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			return do()
		case <-c.run.ctx.Done():
			return errChCut
		}
	}
	if err := do(); err != nil {
		return err
	}
	if hit.LoseAck {
		return errChCut
	}
	return c.wait(hit.removed) // HangStored.
}

// wait is for the end of a fault, or of the server.
func (c *chSession) wait(removed <-chan struct{}) error {
	select {
	case <-removed:
		return nil
	case <-c.run.ctx.Done():
		return errChCut
	}
}

func (c *chSession) handshake(hit *chArmed) error {
	code, err := c.in.UVarInt()
	if err != nil || proto.ClientCode(code) != proto.ClientCodeHello {
		return errChCut
	}
	if err := c.in.skip("suu"); err != nil { // The client's name and version.
		return err
	}
	revision, err := c.in.Int()
	if err != nil {
		return err
	}
	if c.database, err = c.in.str(); err != nil {
		return err
	}
	if c.database == "" {
		c.database = chDefaultDatabase
	}
	if err := c.in.skip("ss"); err != nil { // User and password.
		return err
	}
	c.in.revision = min(revision, c.server.revision)
	c.out.revision = c.in.revision
	refused := hit != nil && hit.Code != 0
	if revision < chMinRevision {
		return errChCut
	}
	if err := c.struck(hit, func() error { c.server.hello(c.out); return nil }); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if refused {
		return errChCut
	}
	if proto.FeatureAddendum.In(c.in.revision) {
		return c.in.skip("s") // The quota key.
	}
	return nil
}

// query reads a query packet and the empty block behind it, and answers.
func (c *chSession) query() error {
	q, err := c.in.query()
	if err != nil {
		return err
	}
	if err := c.endOfData(q); err != nil {
		return err
	}
	stmt, err := parseSQL(q.body, q.params)
	if ins, ok := stmt.(*chInsert); ok && err == nil {
		return c.insert(q, ins)
	}
	table := ""
	if named, ok := stmt.(interface{ on() chTableName }); ok && err == nil {
		table = named.on().key(c.database)
	}
	return c.struck(c.server.strike(ClickHouseQuery, table), func() error {
		if err != nil {
			return err
		}
		result, err := c.server.execute(stmt, c.database)
		if err != nil {
			return asChError(err)
		}
		if result != nil {
			if err := c.result(result, q.compressed); err != nil {
				return err
			}
		}
		c.out.PutByte(byte(proto.ServerCodeEndOfStream))
		return nil
	})
}

// chBlockRows is how many rows a block of a result has at most, as the server's max_block_size.
const chBlockRows = 65_409

// result appends the header and the rows.
func (c *chSession) result(b *chBlock, compressed bool) error {
	if err := c.out.block(b, false, compressed); err != nil {
		return err
	}
	for from := 0; from < b.rows; from += chBlockRows {
		part := &chBlock{columns: append([]chColumn(nil), b.columns...), rows: b.rows}
		part.limit(from, chBlockRows)
		if err := c.out.block(part, true, compressed); err != nil {
			return err
		}
	}
	return nil
}

// endOfData reads the external tables that come with a query, of which the stand-in takes none, to the empty block.
func (c *chSession) endOfData(q *chQuery) error {
	b, err := c.data(q)
	if err == nil && len(b.columns) > 0 {
		err = errors.New("external tables are unknown to the stand-in")
	}
	return err
}

// data reads one data packet.
func (c *chSession) data(q *chQuery) (*chBlock, error) {
	code, err := c.in.UVarInt()
	if err != nil {
		return nil, err
	}
	if proto.ClientCode(code) != proto.ClientCodeData {
		return nil, fmt.Errorf("packet %d in place of data", code)
	}
	return c.in.block(q.compressed)
}

// insert answers an INSERT: with the columns' names and types first, and when all data has come, with the outcome.
func (c *chSession) insert(q *chQuery, ins *chInsert) error {
	defer c.server.work(c, q.id)()
	if ins.table.database == "" {
		ins.table.database = c.database
	}
	maps.Copy(ins.settings, missingFrom(ins.settings, q.settings))
	header, err := c.server.header(ins)
	prepared := false
	table := ins.table.key("")
	end := c.struck(c.server.strike(ClickHousePrepare, table), func() error {
		if err != nil {
			return asChError(err)
		}
		prepared = true
		if ins.inline {
			return nil
		}
		return c.out.block(header, false, q.compressed)
	})
	if end != nil || !prepared {
		return end
	}
	if ins.inline {
		return c.inline(ins, header)
	}
	if err := c.flush(); err != nil {
		return err
	}
	all := &chBlock{columns: make([]chColumn, len(header.columns))}
	copy(all.columns, header.columns)
	var misfit error
	for {
		b, err := c.data(q)
		if err != nil {
			return err
		}
		if len(b.columns) == 0 {
			break
		}
		if misfit == nil {
			misfit = all.append(b)
		}
	}
	return c.store(ins, all, misfit)
}

// missingFrom gives the settings that a statement's own do not overrule.
func missingFrom(own, connection map[string]string) map[string]string {
	missing := map[string]string{}
	for name, value := range connection {
		if _, ok := own[name]; !ok {
			missing[name] = value
		}
	}
	return missing
}

// inline stores the rows that stand in the statement.
func (c *chSession) inline(ins *chInsert, header *chBlock) error {
	all := &chBlock{columns: header.columns, rows: len(ins.rows)}
	var misfit error
	for _, row := range ins.rows {
		if len(row) != len(all.columns) {
			misfit = chErrorf(chNumberOfColumns, "%d values for %d columns", len(row), len(all.columns))
			break
		}
		for i := range all.columns {
			v, err := all.columns[i].typ.literal(row[i])
			misfit = errors.Join(misfit, err)
			all.columns[i].values = append(all.columns[i].values, v)
		}
	}
	return c.store(ins, all, misfit)
}

// store is the moment in which an INSERT's data has come.
func (c *chSession) store(ins *chInsert, all *chBlock, misfit error) error {
	if all.rows == 0 && misfit == nil {
		c.out.PutByte(byte(proto.ServerCodeEndOfStream))
		return nil
	}
	hit := c.server.strike(ClickHouseInsert, ins.table.key(""))
	entry := c.server.log(ins, all, hit)
	acknowledged := false
	end := c.struck(hit, func() error {
		if misfit != nil {
			return asChError(misfit)
		}
		if err := c.server.store(ins, all, entry); err != nil {
			return asChError(err)
		}
		c.out.PutByte(byte(proto.ServerCodeEndOfStream))
		acknowledged = true
		return nil
	})
	if end != nil || !acknowledged {
		return end
	}
	// Before the client can see the answer, so that whoever has seen it finds it in the log.
	c.server.acknowledge(entry, true)
	if err := c.flush(); err != nil {
		c.server.acknowledge(entry, false)
		return err
	}
	return nil
}
