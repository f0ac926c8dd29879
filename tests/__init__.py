"""The tests. A package, so that an installed package called tests does not hide the modules that tests share."""
