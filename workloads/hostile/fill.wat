;; Fills 64 MiB of memory, over and over, with one instruction at a time.
(module
  (memory (export "memory") 1024)
  (func $fill (export "faasm_call") (result i32)
    (local $byte i32)
    (loop $again
      (memory.fill (i32.const 0) (local.get $byte) (i32.const 0x4000000))
      (local.set $byte (i32.add (local.get $byte) (i32.const 1)))
      (br $again))
    (unreachable)))
