;; Calls itself without end but never deeper than 64: each level calls the next one twice, so
;; there are 2^64 calls to make. There is no loop in it.
(module
  (func $tree (param $height i32)
    (if (local.get $height)
      (then
        (call $tree (i32.sub (local.get $height) (i32.const 1)))
        (call $tree (i32.sub (local.get $height) (i32.const 1))))))
  (func $grow_tree (export "faasm_call") (result i32)
    (call $tree (i32.const 64))
    (i32.const 0)))
