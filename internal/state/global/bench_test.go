package global

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

// Compare with redis-benchmark -t set,get -d SIZE -c 8 against the same Redis.
func BenchmarkStore(b *testing.B) {
	drivers := map[string]func(b *testing.B) Store{
		"embedded": func(b *testing.B) Store { return embeddedHosts(b)(b) },
		"redis":    func(b *testing.B) Store { return openRedis(b, redisURL(b), RedisOptions{}) },
	}
	for _, driver := range []string{"embedded", "redis"} {
		for _, size := range []int{64 << 10, 1 << 20, 64 << 20} {
			value := pattern(size, 1)
			for _, callers := range []int{1, 8} {
				if size == 64<<20 && callers > 1 {
					continue
				}
				name := fmt.Sprintf("driver=%s/size=%dKiB/callers=%d", driver, size>>10, callers)
				run := func(op string, f func(s Store, key Key, buf []byte) error) {
					b.Run(op+"/"+name, func(b *testing.B) {
						s := drivers[driver](b)
						for c := range callers {
							write(b, s, Key{"t", fmt.Sprint(c)}, value)
						}
						b.SetBytes(int64(size))
						b.ResetTimer()
						done := make(chan error, callers)
						for c := range callers {
							go func() {
								buf := make([]byte, size)
								for i := c; i < b.N; i += callers {
									if err := f(s, Key{"t", fmt.Sprint(c)}, buf); err != nil {
										done <- err
										return
									}
								}
								done <- nil
							}()
						}
						for range callers {
							if err := <-done; err != nil {
								b.Fatal(err)
							}
						}
					})
				}
				run("read", func(s Store, key Key, buf []byte) error {
					_, _, err := s.Read(context.Background(), key, 0, buf)
					return err
				})
				run("write", func(s Store, key Key, _ []byte) error {
					_, err := s.Write(context.Background(), key, int64(size), bytes.NewReader(value), Condition{})
					return err
				})
			}
		}
	}
}

// A small change of a large value moves what changes, and not the value.
func BenchmarkStore_patch(b *testing.B) {
	for driver, open := range map[string]func(b *testing.B) Store{
		"embedded": func(b *testing.B) Store { return embeddedHosts(b)(b) },
		"redis":    func(b *testing.B) Store { return openRedis(b, redisURL(b), RedisOptions{}) },
	} {
		for _, off := range []int64{0, 5 * ChunkBytes} {
			b.Run(fmt.Sprintf("driver=%s/off=%d", driver, off), func(b *testing.B) {
				s := open(b)
				write(b, s, aKey, make([]byte, 1<<20))
				for b.Loop() {
					patch(b, s, aKey, off, []byte("12345678"))
				}
			})
		}
	}
}

func BenchmarkLock(b *testing.B) {
	for driver, open := range map[string]func(b *testing.B) Store{
		"embedded": func(b *testing.B) Store { return embeddedHosts(b)(b) },
		"redis":    func(b *testing.B) Store { return openRedis(b, redisURL(b), RedisOptions{}) },
	} {
		b.Run("driver="+driver, func(b *testing.B) {
			s := open(b)
			for b.Loop() {
				unlock(b, take(b, s, aKey, LockWrite))
			}
		})
	}
}
