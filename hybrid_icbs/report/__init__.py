"""What is shown of a run, finished or not.

- `record`: a run's figures, from its result or from its folder.
- `page`: the HTML page, from the template `page.html`.
- `plots`: the plots of the page.
- `model_card`: the README.md beside a pruned model, from the template `model_card.md`.
- `renderer`: gives page and model card to results, which know neither.
"""
