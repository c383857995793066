package main

import (
	"os"
	"sync"
	"time"

	"github.com/cheggaaa/pb/v3"
	"golang.org/x/term"
)

const progressEvery = 200 * time.Millisecond

// progress shows on a terminal how far work is, at which rate and how long it will take, until stop is called.
func (t *tool) progress(total int64, done func() int64) (stop func()) {
	f, isFile := t.err.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) || total == 0 {
		return func() {}
	}
	bar := pb.Full.New(0).SetTotal(total).SetWriter(f).Start()
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				bar.SetCurrent(done())
			case <-over:
				bar.SetCurrent(done()).Finish()
				return
			}
		}
	})
	return func() {
		close(over)
		watcher.Wait()
	}
}
