;; One of everything that Prepare reports or rewrites.
(module $everything
  (type $callback (func (param i32 i64 f32 f64 v128) (result externref i32)))
  (import "faasm" "read_call_input" (func $input (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))

  (memory (export "memory") (export "second name") 2 70)

  (table $fixed 3 3 funcref)
  (table $set 4 externref)
  (table $grown 1 10 funcref)

  (global $constant i32 (i32.const 1024))
  (global $stack (mut i32) (i32.const 65536))
  (global $wide (mut i64) (i64.const -2))
  (global $single (mut f32) (f32.const -0.5))
  (global $double (export "double") (mut f64) (f64.const 1))
  (global $vector (mut v128) (v128.const i64x2 1 -1))
  (global $null (mut externref) (ref.null extern))
  (global $function (mut funcref) (ref.func $input))

  (elem (table $fixed) (i32.const 1) func $main $input)
  (elem declare func $initialize)

  (data $passive "passive")
  (data $low (i32.const 16) "0123456789")
  (data $over (i32.const 20) "wxyz")
  (data $high (i32.const 131070) "ab")
  (data $empty (i32.const 5) "")
  (data $first (i32.const 1) "a")

  (start $initialize)
  (func $initialize
    (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 7))
    (data.drop $passive)
    (data.drop $low))

  (func $main (export "_start")
    (table.set $set (i32.const 0) (ref.null extern))
    (drop (table.grow $grown (ref.func $initialize) (i32.const 1)))
    (call $exit (i32.const 0)))

  (func (export "callback") (type $callback)
    (ref.null extern)
    (local.get 0))
)
