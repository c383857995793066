package main

import (
	"os"
	"sync"
	"time"

	"github.com/cheggaaa/pb/v3"
	"golang.org/x/term"
)

const progressEvery = 200 * time.Millisecond

// progress shows on a terminal how far work is, at which rate and how long it will take, until stop is called. What does
// not take long shows none.
func (t *tool) progress(total int64, done func() int64) (stop func()) {
	f, isFile := t.err.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) || total == 0 {
		return func() {}
	}
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		var bar *pb.ProgressBar
		for {
			select {
			case <-tick.C:
				if bar == nil {
					bar = pb.Full.New(0).SetTotal(total).SetWriter(f).Start()
				}
				bar.SetCurrent(done())
			case <-over:
				if bar != nil {
					bar.SetCurrent(done()).Finish()
				}
				return
			}
		}
	})
	return func() {
		close(over)
		watcher.Wait()
	}
}
