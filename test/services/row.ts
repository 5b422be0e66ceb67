import { BrokerContract } from "@millrace/testing"
import { expect, it } from "vitest"

/** What one broker showed, as the table of brokers is made of it. */
export interface Row {
  readonly name: string
  readonly capabilities: Readonly<Record<string, unknown>>
  /** By the id of the scenario: what it lacks for it, and proved to lack; nothing where it keeps the promise. */
  readonly lacks: Readonly<Record<string, ReadonlyArray<string>>>
}

/**
 * The row of a broker in docs/brokers.md: what its suite has just shown is what is kept in test/repo/brokers. Stands after
 * the suite; `vitest -u` writes it.
 */
export const keepsRow = (name: string, shown: BrokerContract.Shown): void => {
  it(`X5 T1 ${name}: the table of brokers says what the contract has shown`, async () => {
    const failed = BrokerContract.scenarios.filter(({ id }) => !shown.verdicts.has(id)).map(({ id }) => id)
    expect(failed).toEqual([])
    const row: Row = {
      name,
      capabilities: { ...shown.capabilities },
      lacks: Object.fromEntries(BrokerContract.scenarios.map(({ id }) => [id, shown.verdicts.get(id)?.lacks ?? []]))
    }
    const file = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")
    await expect(`${JSON.stringify(row, undefined, 2)}\n`).toMatchFileSnapshot(`../repo/brokers/${file}.json`)
  })
}
