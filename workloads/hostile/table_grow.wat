;; Grows its table for ever, and goes on when that is refused.
(module
  (table $t (export "table") 1 funcref)
  (func $grow (export "faasm_call") (result i32)
    (loop $again
      (drop (table.grow $t (ref.null func) (i32.const 100000)))
      (br $again))
    (unreachable)))
