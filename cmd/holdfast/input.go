package main

import (
	"context"
	"io"
)

// input is the standard input until ctx ends. Nothing else ends a read from a terminal: who reads it here stays behind,
// until the process ends.
func (t *tool) input(ctx context.Context) (in io.Reader, stop func()) {
	reader, writer := io.Pipe()
	go func() {
		_, err := io.Copy(writer, t.in)
		writer.CloseWithError(err)
	}()
	release := context.AfterFunc(ctx, func() { writer.CloseWithError(ctx.Err()) })
	return reader, func() {
		release()
		reader.Close()
	}
}
