/**
 * Accounts and transfers, in memory: what must not be done twice.
 */
import { Context, Data, Effect, Layer } from "effect"

/** It has no class, so the route has to say what it is answered with. */
export class InsufficientFunds extends Data.TaggedError("InsufficientFunds")<{ readonly left: number }> {
  override get message(): string {
    return `There are ${this.left} left`
  }
}

/** Who asks is not the one who made it, or nobody made it: both are told the same. */
export class NoSuchTransfer extends Data.TaggedError("NoSuchTransfer")<{}> {}

export interface Transfer {
  readonly id: string
  readonly from: string
  readonly to: string
  readonly amount: number
}

/** What each account has when it is first asked for. */
export const opening = 1000

/** The oldest transfers are forgotten beyond so many. */
const mostTransfers = 10_000

export class Ledger extends Context.Service<Ledger, {
  readonly transfer: (from: string, to: string, amount: number) => Effect.Effect<Transfer, InsufficientFunds>
  readonly find: (id: string, owner: string) => Effect.Effect<Transfer, NoSuchTransfer>
}>()("examples/guarded/Ledger") {}

export const layer = Layer.sync(Ledger, () => {
  const accounts = new Map<string, number>()
  const transfers = new Map<string, Transfer>()
  let last = 0
  const left = (account: string) => accounts.get(account) ?? opening
  return Ledger.of({
    transfer: (from, to, amount) =>
      Effect.suspend(() => {
        if (left(from) < amount) return Effect.fail(new InsufficientFunds({ left: left(from) }))
        accounts.set(from, left(from) - amount)
        accounts.set(to, left(to) + amount)
        const transfer = { id: String(++last), from, to, amount }
        transfers.set(transfer.id, transfer)
        transfers.delete(String(last - mostTransfers))
        return Effect.succeed(transfer)
      }),
    find: (id, owner) =>
      Effect.suspend(() => {
        const found = transfers.get(id)
        return found?.from === owner ? Effect.succeed(found) : Effect.fail(new NoSuchTransfer())
      })
  })
})
