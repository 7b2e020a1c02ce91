package daemon

import (
	"errors"
	"net"
	"os"
)

// Embedded is a whole host in this process, HTTP interface included, on a free port of the
// loopback address and in a temporary directory. It is for demonstrations and benches.
type Embedded struct {
	Host *Host
	Addr string // host:port

	dir   string
	close func() error // of the server
}

// NewEmbedded starts a host with opts, of which DataDir is set here.
func NewEmbedded(opts Options) (e *Embedded, err error) {
	e = &Embedded{}
	if e.dir, err = os.MkdirTemp("", "faasm-"); err != nil {
		return nil, err
	}
	opts.DataDir = e.dir
	if e.Host, err = New(opts); err != nil {
		return nil, errors.Join(err, os.RemoveAll(e.dir))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, e.Host.Close(), os.RemoveAll(e.dir))
	}
	e.Addr = listener.Addr().String()
	server := e.Host.Server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	e.close = func() error {
		err := server.Close()
		<-served
		return err
	}
	return e, nil
}

// URL is the base of the HTTP interface.
func (e *Embedded) URL() string { return "http://" + e.Addr }

// Close stops server and host, and removes the directory.
func (e *Embedded) Close() error {
	return errors.Join(e.close(), e.Host.Close(), os.RemoveAll(e.dir))
}
