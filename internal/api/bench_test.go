package api_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
)

// noopHost answers at once, so that what is left is this package.
type noopHost struct{ *fakeHost }

var (
	noopID     = call.NewID()
	noopResult = returned(0, []byte("ok"))
)

func (noopHost) Invoke(context.Context, api.Invocation) (call.ID, *call.Result, func(), error) {
	return noopID, noopResult, func() {}, nil
}

// bare is what a call is compared with: the least a net/http server can do.
var bare = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Write([]byte("ok"))
})

// BenchmarkInvoke_noop compares a call with a bare handler over keep-alive connections
// whose other end does next to nothing, so that the difference is the server's.
func BenchmarkInvoke_noop(b *testing.B) {
	for _, bodyBytes := range []int{0, 1024} {
		request := "POST /f/default/noop HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(bodyBytes) + "\r\n\r\n" + string(make([]byte, bodyBytes))
		for _, name := range []string{"bare", "api", "bare", "api"} { // in turn, against drift
			b.Run(name+"/"+strconv.Itoa(bodyBytes), func(b *testing.B) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				var s interface {
					Serve(net.Listener) error
					Close() error
				} = &http.Server{Handler: bare}
				if name == "api" {
					s = api.NewServer(api.New(noopHost{newFakeHost()}, api.Options{}))
				}
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				defer func() { s.Close(); <-served }()
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					conn, err := net.Dial("tcp", l.Addr().String())
					if err != nil {
						b.Error(err)
						return
					}
					defer conn.Close()
					r := bufio.NewReaderSize(conn, 4096)
					for pb.Next() {
						io.WriteString(conn, request)
						// The reply ends with the only "ok" after an empty line.
						for {
							line, err := r.ReadSlice('\n')
							if err != nil {
								b.Error(err)
								return
							}
							if len(line) == 2 {
								break
							}
						}
						r.Discard(2)
					}
				})
			})
		}
	}
}
